// The page of auth.lua: logs in over HTTP, connects with the token, and shows every refusal.
// The token stays in this variable: it is gone with the page, and no other script can read it from storage.

"use strict";

const $ = (id) => document.getElementById(id);
let token = "";
let socket = null;

function outcome(text, kind) {
  $("outcome").textContent = text;
  $("outcome").dataset.kind = kind;
}

function line(text, kind) {
  const item = document.createElement("li");
  item.className = kind;
  item.textContent = text;
  $("log").append(item);
  item.scrollIntoView({ block: "nearest" });
}

async function logIn(user, password) {
  const response = await fetch("/team/login", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ user, password }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.why} (${response.status})`);
  return answer.token;
}

function connect(room) {
  socket?.close(1000);
  const address = new URL(`/team/${encodeURIComponent(room)}`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.searchParams.set("token", token);
  const mine = socket = new WebSocket(address);
  mine.onmessage = ({ data }) => { if (socket === mine) receive(JSON.parse(data)); };
  mine.onclose = ({ code, reason }) => {
    if (socket !== mine) return;
    socket = null;
    outcome(`Closed with ${code}: ${reason || (code === 1006 ? "the relay cannot be reached" : "no reason given")}`, "out");
  };
}

function receive(message) {
  switch (message.type) {
    case "welcome":
      outcome(`Connected as ${message.id}, ${message.role}, in ${message.room}. You may ${message.may_write ? "read and write" : "read"} here.`, "in");
      break;
    case "came": line(`${message.id} (${message.role}) came in`, "meta"); break;
    case "went": line(`${message.id} went`, "meta"); break;
    case "said": line(`${message.id} (${message.role}): ${message.text}`, "said"); break;
    case "role": line(`${message.by} gave ${message.id} the role ${message.role}`, "meta"); break;
    case "refused": line(`Refused: ${message.why}`, "refused"); break;
  }
}

/** The token with another role in it, and the signature that it had: what the key is there to notice. */
function forged(real) {
  const [head, body, signature] = real.split(".");
  const claims = JSON.parse(atob(body.replaceAll("-", "+").replaceAll("_", "/")));
  const changed = btoa(JSON.stringify({ ...claims, role: "admin" })).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${head}.${changed}.${signature}`;
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  outcome("Logging in…", "idle");
  try {
    token = await logIn($("user").value, $("password").value);
    connect($("room").value);
  } catch (error) {
    outcome(`Not logged in: ${error.message}`, "out");
  }
});

$("forge").addEventListener("click", () => {
  if (!token) return outcome("Log in first: there is no token to forge", "out");
  token = forged(token);
  connect($("room").value);
});

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  if (socket?.readyState !== WebSocket.OPEN) return outcome("Not connected: log in first", "out");
  socket.send(text);
  $("text").value = "";
});
