// The page of scripts/chat.lua: one room, one connection that comes back by itself.
//
// What others write reaches the page as text nodes only, never as markup; what they name is kept
// in Maps, never as an object's keys; a file of theirs is a download unless it is a picture.

"use strict";

const MIB = 1024 * 1024;
const FILE_BYTES_MAX = 16 * MIB;
const LOG_ITEMS_MAX = 500;
const RETRY_FIRST_MS = 500;
const RETRY_MOST_MS = 15_000;
const STEADY_MS = 5_000; // a connection that held this long starts the retries over
const TYPING_EVERY_MS = 2_000;
const TYPING_SHOWN_MS = 5_000;
const STALLED_MS = 60_000; // a download without a byte for so long is given up
const GROUP_S = 300; // texts of one person this close together stand in one group
const PICTURES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"]);

const $ = (id) => document.getElementById(id);

/** An element: `make("p", { className: "note" }, "text", child)`. Strings become text nodes. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}

function sizeText(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < MIB) return `${Math.round(bytes / 1024)} KiB`;
  return `${(bytes / MIB).toFixed(1)} MiB`;
}

// ── the room as this page knows it ──

const room = {
  name: "",
  you: "", // asked for; the relay may clean it
  id: "",
  people: new Map(), // id → name
  typing: new Map(), // id → the timer that ends it
};

function enter(name, roomName) {
  room.you = name;
  room.name = roomName;
  try { localStorage.setItem("moonwire.name", name); localStorage.setItem("moonwire.room", roomName); } catch { /* private mode: not remembered */ }
  history.replaceState(null, "", `#${encodeURIComponent(roomName)}`);
  $("title").textContent = roomName;
  document.title = `${roomName} · moonwire chat`;
  $("door").hidden = true;
  $("chat").hidden = false;
  link.start();
  if (matchMedia("(pointer: fine)").matches) $("text").focus();
}

function leave() {
  link.stop();
  room.people.clear();
  uploads.stopAll("you left the room");
  downloads.stopAll("you left the room");
  for (const item of [...$("log").children]) forget(item);
  $("chat").hidden = true;
  $("door").hidden = false;
  document.title = "moonwire chat";
  $("name").focus();
}

function roomOfAddress() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
}

// ── the connection ──

// Closes after which coming back unasked would only be refused again.
function isFinal(code) {
  return code === 1000 || code === 1008 || (code >= 4000 && code <= 4999);
}

function closeText(code, reason) {
  const why = reason ? `: ${reason}` : "";
  if (code === 1000) return `The relay ended this connection${why}`;
  if (code === 1008 || code >= 4000) return `The relay refused this connection (${code})${why}`;
  if (code === 1009) return `A message was too large for the relay${why}`;
  if (code === 1011) return `The chat's script failed${why}`;
  if (code === 1012) return `The relay is restarting${why}`;
  if (code === 1013) return `Your connection was too slow for what was sent${why}`;
  return navigator.onLine ? "The relay cannot be reached" : "You are offline";
}

const link = {
  socket: null,
  opened: 0, // how many connections this page has had
  tries: 0,
  timer: 0,
  steady: 0,

  start() {
    this.stop();
    this.tries = 0;
    this.connect();
  },

  stop() {
    clearTimeout(this.timer);
    clearTimeout(this.steady);
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
    this.banner("");
    this.state("closed", "");
  },

  connect() {
    clearTimeout(this.timer);
    this.state("connecting", this.opened ? "Reconnecting…" : "Connecting…");
    const address = new URL(`/chat/${encodeURIComponent(room.name)}`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.hash = "";
    address.searchParams.set("name", room.you);
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      if (this.socket !== socket) return;
      this.opened += 1;
      this.steady = setTimeout(() => { this.tries = 0; }, STEADY_MS);
    };
    socket.onmessage = ({ data }) => {
      if (this.socket !== socket) return;
      if (typeof data === "string") receive(data);
      else downloads.chunk(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (this.socket === socket) this.lost(code, reason);
    };
  },

  // The relay let us in and its script said hello.
  welcome() {
    this.banner("");
    this.state("open", "Connected");
  },

  lost(code, reason) {
    this.socket = null;
    clearTimeout(this.steady);
    uploads.stopAll("the connection was lost");
    downloads.stopAll("the connection was lost");
    texts.failAll();
    clearTyping();
    const why = closeText(code, reason);
    if (isFinal(code)) {
      this.state("refused", "Not connected");
      this.banner(why, "Try again");
      return;
    }
    // Half of the delay is random, so that a restarted relay is not met by everybody at once.
    const most = Math.min(RETRY_MOST_MS, RETRY_FIRST_MS * 2 ** this.tries);
    this.tries += 1;
    this.wait(why, Date.now() + most * (0.5 + Math.random() / 2));
  },

  wait(why, until) {
    const left = until - Date.now();
    if (left <= 0) return this.connect();
    this.state("waiting", "Reconnecting…");
    this.banner(`${why}. Next try in ${Math.ceil(left / 1000)} s.`, "Try now");
    this.timer = setTimeout(() => this.wait(why, until), Math.min(left, 1000));
  },

  retryNow() {
    if (this.socket || $("chat").hidden) return;
    this.connect();
  },

  /** Whether it went to the socket. */
  send(message) {
    if (!this.isOpen()) return false;
    this.socket.send(message instanceof Uint8Array ? message : JSON.stringify(message));
    return true;
  },

  isOpen() {
    return this.socket?.readyState === WebSocket.OPEN && $("status").dataset.state === "open";
  },

  state(state, text) {
    $("status").dataset.state = state;
    $("status").dataset.opened = this.opened;
    $("status-text").textContent = text;
    $("send").disabled = state !== "open";
    $("attach").disabled = state !== "open";
  },

  banner(text, button) {
    $("banner").hidden = !text;
    $("banner-text").textContent = text;
    if (button) $("retry").textContent = button;
  },
};

// ── what the relay says ──

const receivers = new Map(Object.entries({
  hello({ id, name, greeting, people }) {
    room.id = id;
    room.people = new Map(people.map((person) => [person.id, person.name]));
    room.people.set(id, name);
    showPeople();
    link.welcome();
    if (greeting) note(greeting, "greeting");
  },
  joined({ id, name }) {
    room.people.set(id, name);
    showPeople();
    note(`${name} joined`);
  },
  left({ id, name }) {
    if (!room.people.delete(id)) return;
    endTyping(id);
    showPeople();
    note(`${name} left`);
  },
  typing({ from, on }) {
    endTyping(from);
    if (on && room.people.has(from)) {
      room.typing.set(from, setTimeout(() => { endTyping(from); showTyping(); }, TYPING_SHOWN_MS));
    }
    showTyping();
  },
  text(message) {
    endTyping(message.from);
    showTyping();
    if (message.from === room.id) texts.arrived(message);
    else addSaid(message, textOf(message.text));
  },
  notice({ text }) { note(text, "greeting"); },
  error({ why, ref }) {
    if (ref !== undefined && texts.refused(ref, why)) return;
    if (uploads.refused(why)) return;
    note(`Refused: ${why}`, "bad");
  },
  go(message) { uploads.go(message); },
  ack(message) { uploads.acknowledged(message); },
  file(message) { downloads.begin(message); },
  file_end(message) { downloads.end(message); },
}));

function receive(data) {
  let message;
  try { message = JSON.parse(data); } catch { return; }
  // What a changed script adds is for a changed page: ignore what this one does not know.
  receivers.get(message?.type)?.(message);
}

// ── the log ──

let unseen = 0; // texts that came while the page was out of sight
let following = true; // whether the end of the log is to stay in view

function isAtEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 80;
}

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
  $("newest").hidden = true;
  following = true;
}

/** Changes the log and keeps its end in view if it was, or if `always`. */
function changeLog(change, always = false) {
  const follow = always || isAtEnd();
  const result = change();
  while ($("log").children.length > LOG_ITEMS_MAX) forget($("log").firstElementChild);
  if (follow) toEnd();
  else $("newest").hidden = false;
  return result;
}

function forget(item) {
  item.remove();
  for (const url of item.urls ?? []) URL.revokeObjectURL(url);
}

function note(text, kind = "") {
  changeLog(() => $("log").append(make("li", { className: `note ${kind}`.trim() }, text)));
}

/** One message of somebody: a bubble with `content` in it. Returns its list item. */
function addSaid({ from, name, at = Date.now() / 1000 }, content) {
  const mine = from === room.id;
  if (!mine && document.hidden) {
    unseen += 1;
    document.title = `(${unseen}) ${room.name} · moonwire chat`;
  }
  return changeLog(() => {
    const before = $("log").lastElementChild;
    const grouped = before?.from === from && at - before.at < GROUP_S;
    if (grouped) before.classList.remove("last");
    const date = new Date(at * 1000);
    const time = make("time", { dateTime: date.toISOString(), title: date.toLocaleString() },
      date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
    const item = make("li", { className: `said last${grouped ? "" : " first"}${mine ? " mine" : ""}` },
      face(name),
      make("span", { className: "by" }, mine ? "You" : name),
      make("div", { className: "bubble" }, content, time));
    item.style.setProperty("--hue", hueOf(name));
    item.from = from;
    item.at = at;
    item.urls = [];
    $("log").append(item);
    return item;
  }, mine);
}

function textOf(text) {
  const block = make("span", { className: "text" });
  let at = 0;
  for (const match of text.matchAll(/https?:\/\/[^\s<>"']*[^\s<>"'.,;:!?)\]]/g)) {
    block.append(text.slice(at, match.index), make("a", { href: match[0], target: "_blank", rel: "noopener noreferrer" }, match[0]));
    at = match.index + match[0].length;
  }
  block.append(text.slice(at));
  return block;
}

// By name, so that somebody who comes back has the same colour.
function hueOf(name) {
  let hash = 7;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 9973;
  return (hash * 137) % 360;
}

function face(name) {
  const element = make("span", { className: "face", ariaHidden: "true" }, [...name][0] ?? "?");
  element.style.setProperty("--hue", hueOf(name));
  return element;
}

// ── who is here, who types ──

function showPeople() {
  const rows = [...room.people].sort(([a, x], [b, y]) => (b === room.id) - (a === room.id) || x.localeCompare(y));
  $("people-list").replaceChildren(...rows.map(([id, name]) =>
    make("li", {}, face(name), make("span", { className: "who", title: name }, name),
      id === room.id ? make("span", { className: "you" }, "you") : "")));
  for (const place of ["count", "side-count"]) $(place).textContent = room.people.size;
  $("show-people").setAttribute("aria-label", `Who is here: ${room.people.size}`);
}

function endTyping(id) {
  clearTimeout(room.typing.get(id));
  room.typing.delete(id);
}

function clearTyping() {
  for (const id of [...room.typing.keys()]) endTyping(id);
  showTyping();
}

function showTyping() {
  const names = [...room.typing.keys()].map((id) => room.people.get(id) ?? "Somebody");
  $("typing").classList.toggle("shown", names.length > 0);
  $("typing-text").textContent =
    names.length === 0 ? ""
      : names.length === 1 ? `${names[0]} is typing…`
        : names.length === 2 ? `${names[0]} and ${names[1]} are typing…`
          : `${names.length} people are typing…`;
}

let typingTold = 0;

function tellTyping(on) {
  const now = Date.now();
  if (on ? now - typingTold < TYPING_EVERY_MS : typingTold === 0) return;
  if (link.send({ type: "typing", on })) typingTold = on ? now : 0;
}

// ── texts ──

const texts = {
  next: 1,
  pending: new Map(), // ref → { item, text }

  send(text) {
    const ref = this.next++;
    if (!link.send({ type: "text", text, ref })) return false;
    const item = addSaid({ from: room.id, name: room.you }, textOf(text));
    item.classList.add("pending");
    this.pending.set(ref, { item, text });
    typingTold = 0;
    return true;
  },

  // Shown as it came back: the script may have changed it.
  arrived({ ref, text }) {
    const sent = this.pending.get(ref);
    if (!sent) return;
    this.pending.delete(ref);
    sent.item.classList.remove("pending");
    changeLog(() => sent.item.querySelector(".text").replaceWith(textOf(text)));
  },

  refused(ref, why) {
    const sent = this.pending.get(ref);
    if (!sent) return false;
    this.pending.delete(ref);
    sent.item.classList.replace("pending", "failed");
    const again = make("button", { type: "button", className: "again" }, `Not sent: ${why}. Send again`);
    again.onclick = () => { if (this.send(sent.text)) forget(sent.item); };
    changeLog(() => sent.item.querySelector(".bubble").append(again));
    return true;
  },

  failAll() {
    for (const ref of [...this.pending.keys()]) this.refused(ref, "the connection was lost");
  },
};

// ── files ──

/** The bubble of a file: its name, how far it is, and a button that stops it. */
function attachment(file, onStop) {
  const about = make("div", { className: "about" });
  const name = make("div", { className: "file-name", title: file.name }, file.name);
  const bar = make("progress", { max: file.size, value: 0, ariaLabel: `${file.name}: progress` });
  const stop = make("button", { type: "button", className: "icon stop", ariaLabel: `Stop ${file.name}`, title: "Stop" }, icon("cross"));
  stop.onclick = onStop;
  const box = make("div", { className: "attached" }, icon("file"), make("div", {}, name, about), stop, bar);
  box.dataset.state = "moving";
  const item = addSaid({ from: file.from, name: file.by, at: file.at }, box);
  let shown = -1;
  return {
    item,
    progress(bytes, word) {
      const percent = Math.floor(bytes / file.size * 100);
      if (percent === shown) return; // the bar moves in steps that can be seen
      shown = percent;
      bar.value = bytes;
      about.textContent = `${word} ${percent} % of ${sizeText(file.size)}`;
    },
    waiting() { about.textContent = `${sizeText(file.size)}, waits for the one before it`; },
    done(blob) {
      changeLog(() => {
        stop.remove();
        bar.remove();
        box.dataset.state = "done";
        about.textContent = sizeText(file.size);
        const url = URL.createObjectURL(blob);
        item.urls.push(url);
        name.replaceWith(make("a", { className: "file-name", href: url, download: file.name, title: `Save ${file.name}` }, file.name));
        if (PICTURES.has(blob.type)) {
          const image = make("img", { src: url, alt: file.name });
          image.onerror = () => picture.remove();
          const picture = make("button", { type: "button", className: "picture", ariaLabel: `Enlarge ${file.name}` }, image);
          picture.onclick = () => view(url, file.name);
          box.before(picture);
          // A picture grows when it is decoded; keep the end in view if it was.
          const follow = isAtEnd();
          image.decode().then(() => { if (follow) toEnd(); }, () => {});
        }
      });
    },
    failed(why) {
      changeLog(() => {
        stop.remove();
        bar.remove();
        box.dataset.state = "failed";
        item.classList.add("failed");
        about.textContent = `${sizeText(file.size)}, ${why}`;
      });
    },
    again(retry) {
      const button = make("button", { type: "button", className: "again" }, "Send again");
      button.onclick = () => { forget(item); retry(); };
      item.querySelector(".bubble").append(button);
    },
  };
}

// Other people's bytes get a type only if it is a picture's: anything else would run in this
// page's name if it were opened.
function blobOf(parts, mime) {
  return new Blob(parts, { type: PICTURES.has(mime) ? mime : "application/octet-stream" });
}

// One at a time: asked for ("file"), allowed ("go"), sent in chunks of which at most `window` are
// unacknowledged. The relay acknowledges when those who read slowest have kept up.
const uploads = {
  queue: [],
  now: null,

  add(files) {
    for (const file of files) {
      if (file.size > FILE_BYTES_MAX) { note(`${file.name} is larger than ${FILE_BYTES_MAX / MIB} MiB and was not sent`, "bad"); continue; }
      if (file.size === 0) { note(`${file.name} is empty`, "bad"); continue; }
      const upload = { file, key: 0, sent: 0, got: 0, chunk: 0, window: 0, pumping: false };
      const about = { from: room.id, by: room.you, name: file.name, size: file.size };
      upload.view = attachment(about, () => this.cancel(upload));
      upload.view.waiting();
      this.queue.push(upload);
    }
    this.begin();
  },

  begin() {
    if (this.now || !this.queue.length) return;
    this.now = this.queue.shift();
    const { file, view } = this.now;
    view.progress(0, "Sending");
    const asked = link.send({ type: "file", name: file.name, mime: file.type || "application/octet-stream", size: file.size });
    if (!asked) this.finish("not connected");
  },

  go({ key, chunk, window }) {
    if (!this.now || this.now.key) return;
    Object.assign(this.now, { key, chunk, window });
    this.pump(this.now);
  },

  async pump(upload) {
    if (upload.pumping) return;
    upload.pumping = true;
    const { file, key, chunk, window } = upload;
    try {
      while (this.now === upload && upload.sent < file.size && upload.sent - upload.got < window * chunk) {
        const part = await file.slice(upload.sent, upload.sent + chunk).arrayBuffer();
        if (this.now !== upload) return;
        const message = new Uint8Array(4 + part.byteLength);
        new DataView(message.buffer).setUint32(0, key);
        message.set(new Uint8Array(part), 4);
        upload.sent += part.byteLength;
        if (!link.send(message)) return;
      }
    } catch {
      if (this.now === upload) { link.send({ type: "cancel" }); this.finish("the file could not be read"); }
    } finally {
      upload.pumping = false;
    }
  },

  acknowledged({ key, got }) {
    const upload = this.now;
    if (upload?.key !== key) return;
    upload.got = got;
    upload.view.progress(got, "Sending");
    if (got === upload.file.size) this.finish();
    else this.pump(upload);
  },

  finish(why) {
    const upload = this.now;
    this.now = null;
    if (why) this.fail(upload, why);
    else upload.view.done(blobOf([upload.file], upload.file.type));
    this.begin();
  },

  fail(upload, why) {
    upload.view.failed(why);
    upload.view.again(() => this.add([upload.file]));
  },

  cancel(upload) {
    if (this.now === upload) {
      if (upload.key) link.send({ type: "cancel" });
      this.finish("stopped");
    } else {
      this.queue = this.queue.filter((other) => other !== upload);
      this.fail(upload, "stopped");
    }
  },

  /** Whether an error of the relay was about an upload that it had not yet allowed. */
  refused(why) {
    if (!this.now || this.now.key) return false;
    this.finish(why);
    return true;
  },

  stopAll(why) {
    const all = this.now ? [this.now, ...this.queue] : this.queue;
    this.now = null;
    this.queue = [];
    for (const upload of all) this.fail(upload, why);
  },
};

const downloads = {
  files: new Map(), // key → what has come of it

  begin({ key, from, by, name, mime, size, at }) {
    if (!(size > 0 && size <= FILE_BYTES_MAX)) return;
    const download = { name, mime, size, got: 0, parts: [], timer: 0 };
    download.view = attachment({ from, by, name, size, at }, () => this.fail(key, "stopped"));
    download.view.progress(0, "Receiving");
    this.files.set(key, download);
    this.watch(key, download);
  },

  chunk(data) {
    if (data.byteLength < 5) return;
    const key = new DataView(data).getUint32(0);
    const download = this.files.get(key);
    if (!download) return;
    const part = new Uint8Array(data, 4);
    download.parts.push(part);
    download.got += part.byteLength;
    download.view.progress(Math.min(download.got, download.size), "Receiving");
    this.watch(key, download);
    if (download.got < download.size) return;
    this.forget(key, download);
    if (download.got > download.size) download.view.failed("could not be received: it is longer than announced");
    else download.view.done(blobOf(download.parts, download.mime));
  },

  end({ key, why }) {
    this.fail(key, `could not be received: ${why ?? "parts of it were lost, the sender is too fast"}`);
  },

  fail(key, why) {
    const download = this.files.get(key);
    if (!download) return;
    this.forget(key, download);
    download.view.failed(why);
  },

  watch(key, download) {
    clearTimeout(download.timer);
    download.timer = setTimeout(() => this.fail(key, "could not be received: nothing more came"), STALLED_MS);
  },

  forget(key, download) {
    clearTimeout(download.timer);
    this.files.delete(key);
  },

  stopAll(why) {
    for (const key of [...this.files.keys()]) this.fail(key, why);
  },
};

function view(url, name) {
  $("viewer-image").src = url;
  $("viewer-image").alt = name;
  $("viewer").showModal();
}

// ── what the person does ──

function fit() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

function offerFiles(files) {
  if (!files.length) return;
  if (link.isOpen()) uploads.add(files);
  else note("Not connected: nothing was sent", "bad");
}

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  const roomName = $("room").value.trim();
  if (name && roomName) enter(name, roomName);
});

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !texts.send(text)) return;
  $("text").value = "";
  fit();
});

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

$("text").addEventListener("input", () => {
  fit();
  tellTyping($("text").value.trim() !== "");
});

$("text").addEventListener("blur", () => tellTyping(false));
$("attach").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { offerFiles([...$("files").files]); $("files").value = ""; });
$("retry").addEventListener("click", () => link.retryNow());
$("leave-room").addEventListener("click", leave);
$("newest").addEventListener("click", toEnd);
$("log").addEventListener("scroll", () => {
  following = isAtEnd();
  if (following) $("newest").hidden = true;
}, { passive: true });
// The banner, a phone's keyboard or a longer draft make the log smaller: its end stays in view.
new ResizeObserver(() => { if (following) toEnd(); }).observe($("log"));
$("viewer").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("close", () => { $("viewer-image").removeAttribute("src"); });

function showSide(shown) {
  $("side").classList.toggle("shown", shown);
  $("show-people").setAttribute("aria-expanded", shown);
}
$("show-people").addEventListener("click", (event) => { event.stopPropagation(); showSide(!$("side").classList.contains("shown")); });
document.addEventListener("click", (event) => { if (!$("side").contains(event.target)) showSide(false); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") showSide(false); });

document.addEventListener("paste", (event) => {
  if ($("chat").hidden || !event.clipboardData?.files.length) return;
  event.preventDefault();
  offerFiles([...event.clipboardData.files]);
});

// `dragleave` also fires on the way from one element to the next: count the depth.
let dragDepth = 0;
const hasFiles = (event) => !$("chat").hidden && event.dataTransfer?.types.includes("Files");
const drag = (depth) => { dragDepth = depth; $("drop").hidden = depth === 0; };
document.addEventListener("dragenter", (event) => { if (hasFiles(event)) drag(dragDepth + 1); });
document.addEventListener("dragleave", (event) => { if (hasFiles(event)) drag(Math.max(0, dragDepth - 1)); });
document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drag(0);
  offerFiles([...event.dataTransfer.files]);
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden || $("chat").hidden) return;
  unseen = 0;
  document.title = `${room.name} · moonwire chat`;
});
window.addEventListener("online", () => link.retryNow());
window.addEventListener("hashchange", () => {
  const name = roomOfAddress();
  if (!name || name === room.name) return;
  if ($("chat").hidden) { $("room").value = name; return; }
  leave();
  enter(room.you, name);
});
// A page that is put aside for "back" must not stay in the room as a ghost.
window.addEventListener("pagehide", () => { if (!$("chat").hidden) link.stop(); });
window.addEventListener("pageshow", (event) => { if (event.persisted && !$("chat").hidden) link.start(); });

// ── begin ──

let remembered = { name: "", room: "" };
try {
  remembered = { name: localStorage.getItem("moonwire.name") ?? "", room: localStorage.getItem("moonwire.room") ?? "" };
} catch { /* private mode */ }
$("name").value = remembered.name;
$("room").value = roomOfAddress() || remembered.room || "lobby";
if (remembered.name && roomOfAddress()) enter(remembered.name, roomOfAddress());
else $("name").focus();
