// The page of `moonwire dev`: the apps and their reloads, connections to try them, errors, a trace.
//
// What scripts and peers write reaches the page as text nodes only, never as markup; what they name
// is kept in Maps, never as an object's keys.

"use strict";

const POLL_MS = 1_000;
const POLL_AWAY_MS = 2_000;
const TRACE_MS = 500;
const ANSWER_MS = 5_000; // a relay that does not answer for so long is away
const LINES_MAX = 500; // of each log
const HELD_BYTES_MAX = 16 * 1024 * 1024; // of each connection's messages; older ones keep their beginning only
const TEXT_HEAD = 1_000; // characters of a message that are shown unasked
const TEXT_MOST = 200_000; // and asked
const TRACED_HEAD = 250;
const HEX_HEAD = 128; // bytes, likewise
const HEX_MOST = 16 * 1024;
const FILE_BYTES_MAX = 64 * 1024 * 1024;
const SESSIONS_MAX = 20;
const ERRORS_MAX = 50; // that the relay keeps

const $ = (id) => document.getElementById(id);

/** An element: `make("p", { className: "note" }, "text", child)`. Strings become text nodes. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Unchanged text is left alone, so that nothing is selected, focused or read out anew. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Read out by screen readers. */
const announce = (text) => setText($("announce"), text);

/** Gives a select its options, unless it has them; `wanted` is chosen, or the first if there is none such. */
function setOptions(select, options, wanted) {
  if (JSON.stringify([...select.options].map(({ value, text }) => [value, text])) === JSON.stringify(options)) return;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  select.value = wanted;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

function sizeText(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** A time of Unix seconds: of today without its date. */
function timeOf(seconds, fine = false) {
  const date = new Date(seconds * 1000);
  const clock = date.toTimeString().slice(0, 8) + (fine ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : "");
  const today = date.toDateString() === new Date().toDateString();
  return make("time", { dateTime: date.toISOString(), title: date.toLocaleString() }, today ? clock : `${date.toLocaleDateString()} ${clock}`);
}

const nowSeconds = () => Date.now() / 1000;

// ── what is remembered while this browser tab lives ──

const memory = {
  app: "",
  forms: new Map(), // app → { params: [[name, value]], query, subprotocols }
  panels: new Map(), // id → whether it is open

  load() {
    try {
      const kept = JSON.parse(sessionStorage.getItem("moonwire.dev") ?? "{}");
      this.app = kept.app ?? "";
      this.forms = new Map(kept.forms);
      this.panels = new Map(kept.panels);
    } catch { /* private mode, or of another version: begin anew */ }
  },

  save() {
    try {
      sessionStorage.setItem("moonwire.dev", JSON.stringify({ app: this.app, forms: [...this.forms], panels: [...this.panels] }));
    } catch { /* private mode: not remembered */ }
  },
};

// ── asking the relay ──

async function ask(path, options) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS), ...options });
  if (!response.ok) throw new Error(`the relay answered ${response.status} to ${path}`);
  return response;
}

const poll = {
  timer: 0,
  asking: false,
  soon: false, // asked for while one was under way
  heard: 0, // Unix seconds of the last answer
  away: false,

  async now() {
    if (this.asking) { this.soon = true; return; }
    clearTimeout(this.timer);
    this.asking = true;
    const askedAt = performance.now();
    let site;
    try {
      site = await (await ask("apps.json")).json();
    } catch (error) {
      this.lost(error);
    }
    this.asking = false;
    this.timer = setTimeout(() => this.now(), this.soon ? 0 : site ? POLL_MS : POLL_AWAY_MS);
    this.soon = false;
    if (!site) return;
    this.heard = nowSeconds();
    if (this.away) trace.known = false; // perhaps it is another relay, which counts from 1
    this.away = false;
    $("banner").hidden = true;
    $("relay").dataset.state = "here";
    setText($("relay"), `relay ${site.version}`);
    showSite(site, askedAt);
  },

  lost(error) {
    this.away = true;
    $("relay").dataset.state = "away";
    setText($("relay"), "relay is away");
    // What `fetch` throws says no more than that nobody answered.
    const why = error.name === "Error" ? `This page cannot ask the relay: ${error.message}.` : "The relay is away.";
    const shown = this.heard ? ` What is shown is of ${timeOf(this.heard).textContent}.` : "";
    setText($("banner-text"), `${why}${shown} Asking again every ${POLL_AWAY_MS / 1000} seconds.`);
    $("banner").hidden = false;
  },
};

/** Takes an answer of apps.json that was asked for at `askedAt`. */
function showSite(site, askedAt) {
  showApps(site.apps);
  target.offer(site.apps);
  for (const session of sessions) session.follow(site.apps.find((app) => app.name === session.app), askedAt);
  showErrors(site.errors);
  trace.offer(site.apps);
  trace.follow(site.trace, askedAt);
  const failed = site.apps.filter((app) => app.reload?.outcome === "failed").map((app) => app.name);
  document.title = failed.length ? `✗ ${failed.join(", ")} · moonwire dev` : "moonwire dev";
}

// ── faults of scripts: of a reload and of a callback alike ──

const place = ({ file, line }) => (line ? `${file}:${line}` : file ?? "");

/** The source around the fault: an arrow before its line, a caret below its column. */
function source(fault) {
  const width = Math.max(...fault.excerpt.map((row) => String(row.line).length));
  const code = make("pre", { tabIndex: 0, ariaLabel: `Source at ${place(fault)}`, role: "group" });
  for (const { line, text } of fault.excerpt) {
    const hit = line === fault.line;
    code.append(make("span", { className: hit ? "hit" : "" }, `${hit ? "→" : " "} ${String(line).padStart(width)} │ ${text}\n`));
    if (!hit || !(fault.column > 0)) continue;
    // Tabs stay tabs, so that the caret stands where the eye looks for it.
    const before = [...text].slice(0, fault.column - 1).join("").replace(/[^\t]/g, " ");
    code.append(make("span", { className: "caret", ariaHidden: "true" }, `  ${" ".repeat(width)} │ ${before}^\n`));
  }
  return make("figure", { className: "source" }, make("figcaption", {}, place(fault)), code);
}

function faultParts(fault) {
  const parts = [make("p", { className: "fault" }, fault.message)];
  if (fault.hint) parts.push(make("p", { className: "hint" }, make("strong", {}, "Hint: "), fault.hint));
  if (fault.excerpt?.length) parts.push(source(fault));
  if (fault.traceback) {
    parts.push(make("details", { className: "traceback" }, make("summary", {}, "Traceback"), make("pre", { tabIndex: 0, ariaLabel: "Traceback", role: "group" }, fault.traceback)));
  }
  return parts;
}

// ── the apps ──

const cards = new Map(); // name → { item, show }

function makeCard(name) {
  const path = make("code", { className: "path" });
  const generation = make("span", { className: "generation" });
  const facts = make("dl", {});
  const reload = make("div", { className: "reload" });
  const item = make("li", { className: "card" },
    make("div", { className: "card-head" }, make("h3", {}, name), path, generation), facts, reload);
  item.dataset.app = name;

  const values = new Map();
  const fact = (term, text) => {
    if (!values.has(term)) {
      const value = make("dd", {});
      values.set(term, value);
      facts.append(make("div", {}, make("dt", {}, term), value));
    }
    const value = values.get(term);
    setText(value, text);
    value.parentElement.hidden = !text;
  };

  let reloadShown = "";
  return {
    item,
    show(app) {
      setText(path, app.path);
      setText(generation, `generation ${app.generation}`);
      fact("Connections", String(app.connections));
      fact("Instances", String(app.instances));
      fact("Script", app.script);
      fact("Callbacks", app.callbacks.join(", ") || "none");
      fact("Subprotocols", app.subprotocols.join(", "));
      item.dataset.reload = app.reload?.outcome ?? "none";
      // Built anew only when it is another: an opened traceback stays open.
      const now = JSON.stringify([app.reload, app.generation]);
      if (now === reloadShown) return;
      reload.replaceChildren(...reloadParts(app));
      // What the page found at first is only shown.
      if (reloadShown) announce(`${name}: ${reload.firstElementChild.textContent} ${app.reload?.message ?? ""}`);
      reloadShown = now;
    },
  };
}

function reloadParts({ reload, generation }) {
  if (!reload) return [make("p", {}, "Not reloaded since the relay started.")];
  const files = reload.files?.length ? ` (${reload.files.join(", ")})` : "";
  const took = typeof reload.ms === "number" ? ` in ${reload.ms.toFixed(1)} ms` : "";
  if (reload.outcome === "reloaded") {
    const { from, at, to } = reload;
    return [make("p", { className: "good" }, from ? "Reloaded at " : "Loaded at ", timeOf(at), `: generation ${from ? `${from} → ` : ""}${to}${took}${files}.`)];
  }
  if (reload.outcome === "unchanged") {
    return [make("p", {}, "Saved at ", timeOf(reload.at), ` without a change: generation ${generation} goes on${files}.`)];
  }
  const told = make("p", { className: "failed" }, make("strong", {}, "Reload failed"), " at ", timeOf(reload.at), `: generation ${generation} goes on${files}.`);
  return [told, ...faultParts(reload)];
}

function showApps(apps) {
  const names = new Set(apps.map((app) => app.name));
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    card.item.remove();
    cards.delete(name);
  }
  apps.forEach((app, index) => {
    if (!cards.has(app.name)) cards.set(app.name, makeCard(app.name));
    const card = cards.get(app.name);
    if ($("apps").children[index] !== card.item) $("apps").insertBefore(card.item, $("apps").children[index] ?? null);
    card.show(app);
  });
  setText($("app-count"), String(apps.length));
  $("no-apps").hidden = apps.length > 0;
}

// ── errors of callbacks ──

const errorRows = new Map(); // `seq at` → item
let errorsSeen = false;

function errorRow(error) {
  const line = make("summary", {}, timeOf(error.at), " ", make("strong", {}, error.app), " ", make("code", {}, error.callback), " ",
    make("span", { className: "cut" }, error.message));
  const about = [`generation ${error.generation}`];
  if (error.connection) about.push(`connection ${error.connection}`);
  return make("li", {}, make("details", {}, line, make("p", { className: "help" }, about.join(", ")), ...faultParts(error)));
}

function showErrors(errors) {
  const current = new Set();
  let fresh = null;
  for (const error of [...errors].sort((a, b) => a.seq - b.seq)) {
    const key = `${error.seq} ${error.at}`; // a relay that started anew counts from 1 again
    current.add(key);
    if (errorRows.has(key)) continue;
    const row = errorRow(error);
    errorRows.set(key, row);
    $("errors").prepend(row);
    fresh = error;
  }
  for (const [key, row] of errorRows) {
    if (current.has(key)) continue;
    row.remove();
    errorRows.delete(key);
  }
  setText($("error-count"), errors.length >= ERRORS_MAX ? `the last ${errors.length}` : String(errors.length));
  $("error-count").classList.toggle("bad", errors.length > 0);
  $("no-errors").hidden = errors.length > 0;
  if (fresh && errorsSeen) announce(`Script error in ${fresh.app}, ${fresh.callback}: ${fresh.message}`);
  errorsSeen = true;
}

// ── where to connect to ──

const paramOf = (segment) => /^\{(.+)\}$/.exec(segment)?.[1];

/** Percent-encoded, but for what may stand in a path as it is. */
const encoded = (text) => encodeURIComponent(text).replace(/%(?:24|26|2B|2C|3A|3B|3D|40)/g, decodeURIComponent);

const target = {
  apps: [],
  app: null,
  shown: "", // the app whose fields stand in the form
  inputs: new Map(), // parameter → its input

  offer(apps) {
    this.apps = apps;
    setOptions($("app-select"), apps.map((app) => [app.name, app.name]), $("app-select").value || memory.app);
    this.choose();
  },

  /** Makes the fields of the chosen app, if they are not there yet. */
  choose() {
    this.app = this.apps.find((app) => app.name === $("app-select").value) ?? null;
    $("connect").disabled = !this.app;
    const now = this.app ? JSON.stringify([this.app.name, this.app.path]) : "";
    if (now === this.shown) return;
    this.shown = now;
    const kept = memory.forms.get(this.app?.name);
    const values = new Map(kept?.params);
    this.inputs.clear();
    for (const name of this.app?.path.split("/").map(paramOf) ?? []) {
      if (name === undefined) continue;
      this.inputs.set(name, make("input", { required: true, value: values.get(name) ?? "test", autocapitalize: "none", spellcheck: false }));
    }
    $("params").replaceChildren(...[...this.inputs].map(([name, input]) => {
      input.dataset.param = name;
      return make("label", { className: "field" }, make("span", {}, `{${name}}`), input);
    }));
    $("params").hidden = this.inputs.size === 0;
    $("query").value = kept?.query ?? "";
    $("subprotocols").value = kept?.subprotocols ?? this.app?.subprotocols.join(", ") ?? "";
    this.changed();
  },

  /** The path and query that are asked for. */
  address() {
    const path = this.app.path.split("/").map((segment) => {
      const name = paramOf(segment);
      return encoded(name === undefined ? segment : this.inputs.get(name).value);
    }).join("/");
    const query = $("query").value.trim().replace(/^\?/, "").replaceAll("#", "%23");
    return query ? `${path}?${query}` : path;
  },

  protocols() {
    return $("subprotocols").value.split(/[\s,]+/).filter((name) => name !== "");
  },

  changed() {
    for (const input of this.inputs.values()) {
      // Browsers take these two out of a path, however they are written.
      input.setCustomValidity([".", ".."].includes(input.value) ? "A browser cannot ask for a segment of . or .." : "");
    }
    setText($("target-problem"), "");
    if (this.app) setText($("address"), this.address());
  },

  remember() {
    if (!this.app) return;
    memory.app = this.app.name;
    memory.forms.set(this.app.name, {
      params: [...this.inputs].map(([name, input]) => [name, input.value]),
      query: $("query").value,
      subprotocols: $("subprotocols").value,
    });
    memory.save();
  },

  connect() {
    if (!this.app) return;
    this.remember();
    if (sessions.length >= SESSIONS_MAX) {
      setText($("target-problem"), `${SESSIONS_MAX} tabs are open: close one first.`);
      return;
    }
    const session = new Session(this.app.name, this.address(), this.protocols());
    try {
      session.connect();
    } catch (error) { // of a subprotocol's name, for example
      setText($("target-problem"), error.message);
      return;
    }
    sessions.push(session);
    select(session);
  },
};

// ── closes ──

const CLOSES = new Map([
  [1000, "normal end"],
  [1001, "going away: the relay stops, or the page was left"],
  [1002, "protocol error"],
  [1003, "this kind of message is not taken"],
  [1005, "a close frame without a code"],
  [1006, "no close frame: the connection broke, or never was"],
  [1007, "text that is not UTF-8"],
  [1008, "against the rules: refused, too many messages, or a message took too long"],
  [1009, "a message is larger than limits.message"],
  [1011, "the script failed"],
  [1012, "the relay restarts, or a reload could not carry the connection over"],
  [1013, "too slow: what waited was over limits.outbox"],
  [1015, "TLS failed"],
  [4401, "log in: no identity, or it has expired"],
  [4403, "not allowed"],
]);

function meaning(code) {
  if (CLOSES.has(code)) return CLOSES.get(code);
  if (code >= 4000 && code < 5000) return "agreed between the script and its pages";
  if (code >= 3000 && code < 4000) return "registered for libraries and frameworks";
  return "unknown";
}

const closeText = (code, reason) => `${code}, ${meaning(code)}${reason ? `; reason: ${reason}` : ""}`;

// ── showing messages ──

/**
 * JSON with line breaks. Its tokens stay as they were written, where parsing and printing would round
 * large numbers and drop double keys. Throws if it is not JSON.
 */
function prettyJson(text) {
  JSON.parse(text);
  let out = "";
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g);
  tokens.forEach((token, index) => {
    if (token === "{" || token === "[") {
      depth += 1;
      out += token + (/^[}\]]$/.test(tokens[index + 1]) ? "" : line());
    } else if (token === "}" || token === "]") {
      depth -= 1;
      out += (/^[{[]$/.test(tokens[index - 1]) ? "" : line()) + token;
    } else if (token === ",") {
      out += token + line();
    } else {
      out += token === ":" ? ": " : token;
    }
  });
  return out;
}

function hex(bytes) {
  const width = innerWidth < 700 ? 8 : 16;
  const lines = [];
  for (let at = 0; at < bytes.length; at += width) {
    const row = [...bytes.subarray(at, at + width)];
    const digits = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const signs = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${digits.padEnd(width * 3 - 1)}  ${signs}`);
  }
  return lines.join("\n");
}

/** The beginning of a message, or most of it: `[text, how much is left out]`. */
function shown(data, all) {
  const isText = typeof data === "string";
  const most = isText ? (all ? TEXT_MOST : TEXT_HEAD) : all ? HEX_MOST : HEX_HEAD;
  const part = data.slice(0, most);
  return [isText ? part : hex(part), Math.max(0, data.length - most)];
}

/** A button of a line that stays pressed. */
function toggle(text, onChange) {
  const button = make("button", { type: "button", ariaPressed: "false", tabIndex: -1 }, text);
  button.onclick = () => {
    const pressed = button.ariaPressed !== "true";
    button.ariaPressed = String(pressed);
    onChange(pressed);
  };
  return button;
}

/**
 * Hundreds of lines have buttons, so these are not stops of the Tab key: from the box the arrow keys
 * go to them, up and down by lines, left and right within one; Escape goes back to the box.
 */
function walkButtons(box) {
  box.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const inside = event.target !== box;
    let next;
    if (event.key === "Escape" && inside) {
      next = box;
    } else if (step?.[1] && inside) {
      next = step[1] < 0 ? event.target.previousElementSibling : event.target.nextElementSibling;
    } else if (step?.[0]) {
      const lines = [...box.querySelectorAll("li:not([hidden])")].filter((line) => line.querySelector("button"));
      const at = inside ? lines.indexOf(event.target.closest("li")) : lines.length;
      next = lines[at + step[0]]?.querySelector("button");
    }
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
}

// ── connections ──

const sessions = [];
let chosen = null; // the session whose tab is shown
let sessionsMade = 0;

const OPEN_STATES = { connecting: "connecting…", open: "open", closing: "closing…", closed: "closed" };

class Session {
  constructor(app, address, protocols) {
    this.app = app;
    this.address = address;
    this.protocols = protocols;
    this.number = ++sessionsMade;
    this.socket = null;
    this.state = "closed";
    this.about = ""; // what is said beside the state
    this.generation = 0; // 0 until the relay told it after the opening
    this.openedAt = 0;
    this.entries = []; // the messages that are held whole: { data, size, tools }
    this.held = 0;
    this.dropped = 0;
    this.unseen = 0;
    this.following = true; // the log's end is in view
    this.scrolled = 0;
    this.lines = make("ol", {});
    this.droppedNote = make("p", { className: "dropped", hidden: true });
    this.view = make("div", {}, this.droppedNote, this.lines);
    this.tab = make("button", { type: "button", id: `tab-${this.number}`, role: "tab" });
    this.tab.setAttribute("aria-controls", "session");
    this.tab.onclick = () => select(this);
    this.tab.onkeydown = (event) => moveTab(this, event);
  }

  connect() {
    const origin = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}`;
    const socket = new WebSocket(origin + this.address, this.protocols);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.generation = 0;
    let opened = false;
    this.is("connecting", "");
    this.note(`Connecting to ${this.address}`);
    socket.onopen = () => {
      opened = true;
      this.openedAt = performance.now();
      const protocol = socket.protocol ? `subprotocol ${socket.protocol}` : "";
      this.is("open", protocol);
      this.note(protocol ? `Open, ${protocol}` : "Open", "good");
      if (document.activeElement === $("connect") && matchMedia("(pointer: fine)").matches) $("message").focus();
      poll.now();
    };
    socket.onmessage = ({ data }) => this.message("in", typeof data === "string" ? data : new Uint8Array(data));
    socket.onclose = ({ code, reason }) => {
      const asked = this.state === "closing";
      const text = closeText(code, reason);
      this.is("closed", text);
      if (opened) this.note(`Closed: ${text}`, asked || code === 1000 ? "" : "bad");
      else if (asked) this.note("Given up before it was open");
      else this.note(`Not opened: ${text}. Browsers hide why from pages; the relay's log and \`moonwire connect\` tell it.`, "bad");
      poll.now();
    };
  }

  disconnect(code, reason) {
    this.socket.close(code, reason); // throws for what may not be sent
    this.is("closing", "");
    if (code !== undefined) this.note(`Disconnecting with ${code}${reason ? `: ${reason}` : ""}`);
  }

  is(state, about) {
    this.state = state;
    this.about = about;
    this.showTab();
    if (this === chosen) showChosen();
  }

  /** Tells in the log what a reload did to this connection. */
  follow(app, askedAt) {
    if (!app || this.state !== "open" || askedAt < this.openedAt || app.generation === this.generation) return;
    if (this.generation) this.note(`generation ${this.generation} → ${app.generation}, this connection stayed open`, "good");
    this.generation = app.generation;
    if (this === chosen) showChosen();
  }

  send(data, name) {
    if (this.state !== "open") return false;
    this.socket.send(data);
    this.message("out", data, name);
    return true;
  }

  note(text, kind = "") {
    this.add(make("li", { className: `note ${kind}` }, timeOf(nowSeconds(), true), " ", text));
  }

  message(direction, data, name) {
    const binary = typeof data !== "string";
    const size = binary ? data.length : new Blob([data]).size;
    const body = make("pre", {});
    const tools = make("span", { className: "tools" });
    const entry = { data, size, tools };
    const remark = (text) => body.append(make("span", { className: "left" }, text));
    const show = (all = false) => {
      const [text, left] = shown(entry.data, all);
      body.textContent = text;
      if (left) remark(`… ${count(left, binary ? "byte" : "character")} more`);
      if (size === 0) remark("empty");
    };
    show();

    let allButton, jsonButton;
    if (shown(data, false)[1]) {
      allButton = toggle("All", (on) => { if (jsonButton) jsonButton.ariaPressed = "false"; show(on); });
      tools.append(allButton);
    }
    if (!binary && /^\s*[[{]/.test(data)) {
      jsonButton = toggle("JSON", (on) => {
        if (allButton) allButton.ariaPressed = "false";
        show();
        if (!on) return;
        try {
          const text = prettyJson(entry.data);
          body.textContent = text.slice(0, TEXT_MOST);
          if (text.length > TEXT_MOST) remark("…");
        } catch (error) {
          remark(` Not JSON: ${error.message}`);
        }
      });
      tools.append(jsonButton);
    }
    if (direction === "out") {
      const again = make("button", { type: "button", title: "Send this message again", tabIndex: -1 }, "Again");
      again.onclick = () => this.send(entry.data, name);
      tools.append(again);
    }

    const word = direction === "out" ? "↑ sent" : "↓ received";
    const kind = binary ? `binary${name ? ` ${name}` : ""}, ` : "";
    this.add(make("li", { className: `frame ${direction}` },
      make("span", { className: "meta" },
        make("strong", {}, word), " ", timeOf(nowSeconds(), true), ` · ${kind}${sizeText(size)}`),
      tools, body));
    this.entries.push(entry);
    this.held += size;
    while (this.held > HELD_BYTES_MAX || this.entries.length > LINES_MAX) this.letGo(this.entries.shift());
  }

  /** Its line keeps what is on the page, and can do no more. */
  letGo(entry) {
    this.held -= entry.size;
    entry.data = null;
    entry.tools.replaceChildren("no longer held");
  }

  add(line) {
    this.lines.append(line);
    while (this.lines.childElementCount > LINES_MAX) {
      this.lines.firstElementChild.remove();
      this.dropped += 1;
    }
    this.showDropped();
    if (this !== chosen) {
      this.unseen += 1;
      this.showTab();
    } else if (this.following) {
      toEndSoon();
    } else {
      $("newest").hidden = false;
    }
  }

  showDropped() {
    this.droppedNote.hidden = this.dropped === 0;
    if (this.dropped) setText(this.droppedNote, `${count(this.dropped, "older line was", "older lines were")} dropped: the log keeps ${LINES_MAX}.`);
  }

  clear() {
    this.entries = [];
    this.held = 0;
    this.lines.replaceChildren();
    this.dropped = 0;
    this.showDropped();
    $("newest").hidden = true;
  }

  showTab() {
    const unseen = this.unseen ? ` (${this.unseen > 99 ? "99+" : this.unseen} new)` : "";
    setText(this.tab, `${this.number} ${this.app}${unseen}`);
    this.tab.dataset.state = this.state;
    this.tab.title = `${this.address}, ${OPEN_STATES[this.state]}`;
    showOpenCount();
  }
}

function showOpenCount() {
  const open = sessions.filter((session) => session.state === "open").length;
  setText($("open-count"), open ? `${open} open` : "");
}

function select(session) {
  if (chosen) chosen.tab.setAttribute("aria-selected", "false");
  chosen = session;
  for (const { tab } of sessions) {
    if (!tab.isConnected) $("tabs").append(tab);
    tab.setAttribute("aria-selected", String(tab === session?.tab));
    tab.tabIndex = tab === session?.tab ? 0 : -1;
  }
  $("tabs").hidden = sessions.length === 0;
  const panel = $("session");
  if (session) {
    session.unseen = 0;
    session.showTab();
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", session.tab.id);
    session.tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  } else {
    panel.removeAttribute("role");
    panel.removeAttribute("aria-labelledby");
  }
  // Another log is not news to be read out.
  $("log").setAttribute("aria-live", "off");
  $("log").replaceChildren(...(session ? [session.view] : []));
  $("newest").hidden = true;
  if (session) {
    const { following, scrolled } = session;
    toEnd();
    if (!following) {
      $("log").scrollTop = scrolled;
      follow(false);
    }
  }
  requestAnimationFrame(() => $("log").setAttribute("aria-live", "polite"));
  showChosen();
}

/** What depends on the state of the chosen connection. */
function showChosen() {
  const state = chosen?.state ?? "none";
  const open = state === "open";
  $("status").dataset.state = state;
  if (!chosen) {
    setText($("status"), "No connection yet: choose an app and press Connect.");
  } else {
    const about = [open && chosen.generation ? `generation ${chosen.generation}` : "", chosen.about].filter((text) => text).join(", ");
    const { address } = chosen; // a token makes it long
    setText($("status"), `${address.slice(0, 80)}${address[80] ? "…" : ""} ${OPEN_STATES[state]}${about ? `: ${about}` : ""}`);
  }
  $("ending").hidden = !chosen;
  const focused = document.activeElement;
  const closed = state === "closed";
  $("again").hidden = !closed;
  for (const id of ["disconnect", "code-field", "reason-field"]) $(id).hidden = closed;
  $("send").disabled = !open;
  $("send-file").disabled = !open;
  // The button that was pressed has gone: the one in its place takes the focus.
  if (focused === $("disconnect") && closed) $("again").focus();
  if (focused === $("again") && !closed) $("disconnect").focus();
}

function moveTab(session, event) {
  const at = sessions.indexOf(session);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: sessions.length - 1 }[event.key];
  if (event.key === "Delete") {
    closeTab(session);
  } else if (to !== undefined) {
    const next = sessions.at(to % sessions.length);
    select(next);
    next.tab.focus();
  } else {
    return;
  }
  event.preventDefault();
}

function closeTab(session) {
  const at = sessions.indexOf(session);
  const { socket } = session;
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
  sessions.splice(at, 1);
  session.tab.remove();
  select(sessions[Math.min(at, sessions.length - 1)] ?? null);
  (chosen?.tab ?? $("connect")).focus();
  showOpenCount();
}

const isAtEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 24;

let endShown = 0; // where the log's end was when it was scrolled to

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
  endShown = $("log").scrollTop;
  follow(true);
}

function follow(following) {
  chosen.following = following;
  $("log").classList.toggle("following", following);
  if (following) $("newest").hidden = true;
}

let toEndAsked = false;

/** Once for all messages that come before the next picture. */
function toEndSoon() {
  if (toEndAsked) return;
  toEndAsked = true;
  requestAnimationFrame(() => {
    toEndAsked = false;
    if (chosen?.following) toEnd();
  });
}

// ── sending ──

let lastText = "";

function checkJson() {
  const text = $("message").value;
  let why = "";
  if ($("json-check").checked && text.trim()) {
    try { JSON.parse(text); } catch (error) { why = `Not JSON: ${error.message}`; }
  }
  $("message").setAttribute("aria-invalid", String(why !== ""));
  setText($("message-problem"), why);
  return why === "";
}

function sendText() {
  const text = $("message").value;
  if (text === "") return;
  if (chosen?.state !== "open") {
    setText($("message-problem"), "Not connected: nothing was sent.");
    return;
  }
  if (!checkJson()) { $("message").focus(); return; }
  chosen.send(text);
  lastText = text;
  $("message").value = "";
}

async function sendFile(file) {
  const session = chosen;
  if (file.size > FILE_BYTES_MAX) { session.note(`${file.name} is larger than ${sizeText(FILE_BYTES_MAX)} and was not sent`, "bad"); return; }
  try {
    const data = new Uint8Array(await file.arrayBuffer());
    if (!session.send(data, file.name)) session.note(`${file.name} was not sent: not connected`, "bad");
  } catch {
    session.note(`${file.name} could not be read`, "bad");
  }
}

// ── the trace ──

const trace = {
  known: false,
  on: false,
  paused: false,
  changedAt: 0, // when this page switched it last
  run: 0, // the loop that may go on
  after: 0, // the last seq
  fresh: true, // nothing was asked since it was switched on
  lastAt: 0,
  dropped: 0,
  lost: 0,

  offer(apps) {
    setOptions($("trace-app"), [["", "all"], ...apps.map((app) => [app.name, app.name])], $("trace-app").value);
    this.filter();
  },

  /** Another page, the command line, or a restart may have switched it too. */
  follow(on, askedAt) {
    if (askedAt < this.changedAt || (this.known && on === this.on)) return;
    this.known = true;
    this.on = on;
    $("trace-toggle").disabled = false;
    $("trace-toggle").ariaChecked = String(on);
    this.about();
    if (!on) return;
    // A relay that started anew counts from 1 again; what was seen is known by its time.
    this.after = 0;
    this.fresh = true;
    if (!this.paused) this.loop();
  },

  async switch() {
    const on = !this.on;
    $("trace-toggle").disabled = true;
    setText($("trace-problem"), "");
    try {
      await ask("trace", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ on }) });
      this.changedAt = performance.now();
      this.follow(on, this.changedAt);
    } catch (error) {
      setText($("trace-problem"), `The trace was not switched: ${error.message}`);
    }
    $("trace-toggle").disabled = false;
    $("trace-toggle").focus({ preventScroll: true }); // which it lost while it was disabled
  },

  pause(paused) {
    this.paused = paused;
    if (paused) this.run += 1;
    else if (this.on) this.loop();
    this.about();
  },

  /** Reads until it is paused; once more after it was switched off, for the rest. */
  async loop() {
    const run = ++this.run;
    for (;;) {
      const { on } = this;
      try {
        const answer = await (await ask(`trace.json?after=${this.after}`)).json();
        if (run !== this.run) return;
        this.take(answer);
      } catch {
        // The banner tells that the relay is away.
        if (run !== this.run) return;
      }
      if (!on) return;
      await new Promise((next) => setTimeout(next, poll.away ? POLL_AWAY_MS : TRACE_MS));
      if (run !== this.run) return;
    }
  },

  take({ entries, lost }) {
    if (!this.fresh) this.lost += lost;
    this.fresh = false;
    const list = $("trace");
    const following = isAtEnd(list);
    const news = entries.filter((entry) => entry.at > this.lastAt || (this.after > 0 && entry.seq > this.after));
    if (entries.length) {
      this.after = entries.at(-1).seq;
      this.lastAt = Math.max(this.lastAt, entries.at(-1).at);
    }
    this.dropped += Math.max(0, news.length - LINES_MAX);
    list.append(...news.slice(-LINES_MAX).map((entry) => traceRow(entry)));
    while (list.childElementCount > LINES_MAX) {
      list.firstElementChild.remove();
      this.dropped += 1;
    }
    this.filter();
    if (following && news.length) list.scrollTop = list.scrollHeight;
  },

  filter() {
    const app = $("trace-app").value;
    const text = $("trace-text").value.trim().toLowerCase();
    for (const row of $("trace").children) row.hidden = (app !== "" && row.dataset.app !== app) || !row.searched.includes(text);
    this.about();
  },

  about() {
    setText($("trace-state"), this.paused && this.on ? "paused" : this.on ? "on" : "off");
    const rows = [...$("trace").children];
    const hidden = rows.filter((row) => row.hidden).length;
    const parts = [];
    if (rows.length) parts.push(hidden ? `${rows.length - hidden} of ${rows.length} entries shown.` : `${count(rows.length, "entry", "entries")}.`);
    else parts.push(this.on ? "Nothing yet." : "Shows what all connections send and get, while it is on.");
    if (this.dropped) parts.push(`${count(this.dropped, "older one was", "older ones were")} dropped: the list keeps ${LINES_MAX}.`);
    if (this.lost) parts.push(`${count(this.lost, "one was", "more were")} overwritten in the relay before this page asked.`);
    setText($("trace-about"), parts.join(" "));
  },

  clear() {
    $("trace").replaceChildren();
    this.dropped = 0;
    this.lost = 0;
    this.about();
  },
};

function traceRow(entry) {
  const { app, what, binary, bytes } = entry;
  const who = entry.user ? `${entry.user} (${entry.connection})` : entry.connection;
  const isMessage = what === "in" || what === "out";
  const size = isMessage ? ` · ${binary ? "binary, " : ""}${sizeText(bytes)}` : "";
  const row = make("li", { className: `frame ${what}` },
    make("span", { className: "meta" }, timeOf(entry.at, true), " ", make("strong", {}, what), ` ${app} · ${who} · generation ${entry.generation}, instance ${entry.instance}${size}`));
  let text = (binary ? entry.text?.replace(/..(?=.)/g, "$& ") : entry.text) ?? "";
  if (what === "close" && typeof entry.code === "number") text = closeText(entry.code, entry.reason);
  if (text) {
    const body = make("pre", {});
    const recorded = binary ? entry.text.length / 2 : new Blob([text]).size;
    const show = (all) => {
      body.textContent = all ? text : text.slice(0, TRACED_HEAD);
      const unrecorded = isMessage && all ? bytes - recorded : 0;
      const left = unrecorded > 0 ? `… ${count(unrecorded, "more byte was", "more bytes were")} not recorded` : all ? "" : "…";
      if (left) body.append(make("span", { className: "left" }, left));
    };
    const long = text.length > TRACED_HEAD;
    show(!long);
    if (long) row.append(make("span", { className: "tools" }, toggle("All", show)));
    row.append(body);
  }
  row.dataset.app = app;
  row.searched = [what, who, text, entry.text].join("\n").toLowerCase();
  return row;
}

// ── what the person does ──

$("retry").addEventListener("click", () => poll.now());
window.addEventListener("online", () => poll.now());

$("app-select").addEventListener("change", () => { target.choose(); target.remember(); });
$("target").addEventListener("input", () => target.changed());
$("target").addEventListener("change", () => target.remember());
$("target").addEventListener("submit", (event) => {
  event.preventDefault();
  target.connect();
});

$("ending").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!chosen || !["open", "connecting"].includes(chosen.state)) return;
  const code = $("close-code").value.trim();
  try {
    // A reason needs a code; without both the close frame is empty.
    chosen.disconnect(code === "" ? undefined : Number(code), code === "" ? undefined : $("close-reason").value);
  } catch (error) {
    chosen.note(`Not disconnected: ${error.message}`, "bad");
  }
});
$("again").addEventListener("click", () => { if (chosen?.state === "closed") chosen.connect(); });
$("clear-log").addEventListener("click", () => chosen?.clear());
$("close-tab").addEventListener("click", () => { if (chosen) closeTab(chosen); });

$("newest").addEventListener("click", () => { toEnd(); $("log").focus(); });
$("log").addEventListener("scroll", () => {
  if (!chosen) return;
  chosen.scrolled = $("log").scrollTop;
  // Lines that came since the end was shown do not count: only who scrolls up leaves it.
  if (isAtEnd($("log"))) follow(true);
  else if (chosen.scrolled < endShown - 4) follow(false);
}, { passive: true });
// A log that grows or shrinks keeps its end in view, if it was.
new ResizeObserver(() => { if (chosen?.following) toEnd(); }).observe($("log"));

walkButtons($("log"));
walkButtons($("trace"));

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  sendText();
});
$("message").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) sendText();
  else if (event.key === "ArrowUp" && event.target.value === "") event.target.value = lastText;
  else return;
  event.preventDefault();
});
$("message").addEventListener("input", checkJson);
$("json-check").addEventListener("change", checkJson);
$("send-file").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file && chosen) sendFile(file);
  $("file").value = ""; // so that the same file can be taken again
});

$("trace-toggle").addEventListener("click", () => trace.switch());
$("trace-app").addEventListener("change", () => trace.filter());
$("trace-text").addEventListener("input", () => trace.filter());
$("trace-clear").addEventListener("click", () => trace.clear());
$("trace-pause").addEventListener("click", () => {
  const paused = $("trace-pause").ariaPressed !== "true";
  $("trace-pause").ariaPressed = String(paused);
  trace.pause(paused);
});

// ── begin ──

memory.load();
for (const panel of document.querySelectorAll("details.panel")) {
  panel.open = memory.panels.get(panel.id) ?? panel.open;
  panel.addEventListener("toggle", () => {
    memory.panels.set(panel.id, panel.open);
    memory.save();
    if (panel.contains($("trace"))) $("trace").scrollTop = $("trace").scrollHeight;
  });
}
poll.now();
