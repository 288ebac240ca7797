// Drives the page of `moonwire dev` in a real browser, against a real relay.
//
//   npm ci && node dev.mjs                  with target/release/moonwire and Debian's chromium
//   MOONWIRE=… CHROMIUM=… SCREENSHOTS=…     another relay, another browser, a folder for pictures
//
// Every wait is for a condition and has a deadline. When a test fails, the whole scene is printed:
// what each page shows, and the relay's log.

import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const binary = resolve(process.env.MOONWIRE ?? join(root, "target/release/moonwire"));
const browserPath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const WAIT_MS = 15_000;

// ── waiting ──

/** What `look` gives as soon as it is truthy; fails with `what` at the deadline. */
async function eventually(what, look, within = WAIT_MS) {
  const deadline = Date.now() + within;
  let error;
  for (;;) {
    try {
      const seen = await look();
      if (seen) return seen;
      error = undefined;
    } catch (caught) {
      error = caught;
    }
    if (Date.now() > deadline) throw new Error(`not within ${within} ms: ${what}${error ? ` (${error.message})` : ""}`);
    await new Promise((next) => setTimeout(next, 20));
  }
}

function equal(seen, wanted, what) {
  if (seen !== wanted) throw new Error(`${what}: wanted ${JSON.stringify(wanted)}, saw ${JSON.stringify(seen)}`);
}

function includes(seen, wanted, what) {
  if (!seen.includes(wanted)) throw new Error(`${what}: wanted ${JSON.stringify(wanted)} in ${JSON.stringify(seen)}`);
}

// ── the relay ──

async function freePort() {
  const server = createServer();
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

const children = new Set(); // none of them outlives this program, whatever fails

/** `{ log(), ended, ending }` of a command that runs in `cwd`. */
function start(cwd, ...args) {
  const child = spawn(binary, args, { cwd, stdio: ["ignore", "pipe", "pipe"] });
  children.add(child);
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (part) => { log += part; });
  const run = { child, log: () => log, ended: undefined };
  run.ending = new Promise((done) => {
    child.on("error", (error) => { run.ended = error.message; done(); });
    child.on("close", (code, signal) => { run.ended ??= `exit ${code ?? signal}`; done(); });
  });
  return run;
}

/** What `moonwire new` makes for a chat, on a free port: `{ folder, url }`. */
async function newTalk() {
  const folder = await mkdtemp(join(tmpdir(), "moonwire-browser-"));
  const made = start(folder, "new", "talk", "--template", "chat");
  await made.ending;
  equal(made.ended, "exit 0", `moonwire new\n${made.log()}`);
  const config = join(folder, "talk/config.toml");
  const text = await readFile(config, "utf8");
  const address = `127.0.0.1:${await freePort()}`;
  await writeFile(config, text.replace(/^listen\s*=.*$/m, `listen = "${address}"`));
  return { folder, url: `http://${address}` };
}

/** `moonwire dev`, once it answers. */
async function startDev({ folder, url }) {
  await relay?.end(); // where a failed test has left it
  const run = start(folder, "dev", "-c", "talk/config.toml");
  await eventually("the relay answers", async () => run.ended || (await fetch(`${url}/healthz`)).ok);
  if (run.ended) throw new Error(`the relay did not start (${run.ended}):\n${run.log()}`);
  return {
    log: run.log,
    async end(signal = "SIGTERM") {
      run.child.kill(signal);
      const killer = setTimeout(() => run.child.kill("SIGKILL"), WAIT_MS);
      await run.ending;
      clearTimeout(killer);
    },
  };
}

/** Replaces a file as editors do: writes beside it and renames over it. */
async function save(file, text) {
  await writeFile(`${file}.new`, text);
  await rename(`${file}.new`, file);
}

/** Saves the chat's script with one change, and tells the number of the line that changed. */
async function change(from, to) {
  const file = join(talk.folder, "talk/scripts/chat.lua");
  const text = await readFile(file, "utf8");
  const at = text.indexOf(from);
  if (at < 0) throw new Error(`chat.lua has no ${JSON.stringify(from)}`);
  await save(file, text.replace(from, () => to));
  return text.slice(0, at).split("\n").length;
}

const state = async () => (await fetch(`${talk.url}/_dev/apps.json`)).json();

// ── the page ──

const pages = new Map(); // name → page, for the scene

async function visit(name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 1000 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT_MS);
  page.problems = [];
  await page.exposeFunction("problem", (text) => page.problems.push(text));
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => window.problem(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
  });
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (message) => {
    // A relay that is away is part of these tests, and the browser says so in its console.
    const isAway = page.mayMiss && /WebSocket connection|ERR_CONNECTION/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !isAway) page.problems.push(message.text());
  });
  pages.set(name, page);
  await page.goto(`${talk.url}/_dev/`);
  return page;
}

async function leave(name) {
  const page = pages.get(name);
  equal(page.problems.join("; "), "", `${name}'s console`);
  await page.context().close();
  pages.delete(name);
}

async function shot(page, name) {
  if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `dev-${name}.png`), fullPage: true });
}

const card = (page) => page.innerText('.card[data-app="chat"]');
const generation = async (page) => Number(/\d+/.exec(await page.textContent('.card[data-app="chat"] .generation'))[0]);
const status = (page) => page.textContent("#status");
const log = (page) => page.$$eval("#log li", (all) => all.map((line) => line.textContent).join("\n"));
const frames = (page, direction) => page.$$eval(`#log .frame.${direction} pre`, (all) => all.map((text) => text.textContent));

/** Opens a connection in a tab of its own, and waits until its generation is known. */
async function connect(page, room, query) {
  await page.fill("#params input", room);
  await page.fill("#query", query);
  await page.click("#connect");
  await eventually("the connection is open", async () => /open: generation \d+/.test(await status(page)));
}

async function say(page, text) {
  await page.fill("#message", JSON.stringify({ type: "text", text, ref: 1 }));
  await page.press("#message", "Enter");
}

/** The answer to what was said, as the log shows it. */
async function hears(page, text) {
  return eventually(`the log shows an answer with ${JSON.stringify(text)}`, async () =>
    (await frames(page, "in")).find((frame) => JSON.parse(frame).text === text));
}

async function open(page, panel) {
  if (!await page.$eval(panel, (details) => details.open)) await page.click(`${panel} > summary`);
}

/** How far the page is wider than it should be, and because of what. */
async function fits(page, width, what) {
  const over = await page.evaluate((width) => {
    const seen = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth, window.innerWidth);
    const wide = [...document.querySelectorAll("main, .panel, .card, #log, #tabs, form, button, input, .source")]
      .filter((element) => element.getBoundingClientRect().right > width + 0.5 && !element.closest("#tabs, pre"))
      .map((element) => `${element.tagName.toLowerCase()}#${element.id}.${element.className}`);
    return [seen, ...wide];
  }, width);
  if (over[0] > width || over.length > 1) throw new Error(`${what} is ${over[0]} px wide in ${width}: ${over.slice(1).join(", ")}`);
}

// ── the tests: one after the other, each in the scene that the one before left ──

const tests = [];
const test = (name, run) => tests.push({ name, run });
let browser, relay, talk, page;

test("the page lists the app with its generation and its callbacks", async () => {
  talk = await newTalk();
  relay = await startDev(talk);
  await eventually("the relay tells the address", () => relay.log().includes(`${talk.url}/_dev/`));
  page = await visit("page");
  await page.waitForSelector("#relay[data-state=here]");
  equal(await page.textContent("#app-count"), "1", "apps");
  equal(await generation(page), 1, "generation");
  const text = await card(page);
  for (const wanted of ["/chat/{room}", "scripts/chat.lua", "authenticate, on_open, on_message, on_close"]) includes(text, wanted, "the app's card");
  includes(text, "Loaded at", "how it came to be");
  equal(await page.isVisible("#banner"), false, "a banner");
  await shot(page, "begin");
});

test("the address without its last slash leads to the page", async () => {
  const answer = await fetch(`${talk.url}/_dev`);
  equal(answer.url, `${talk.url}/_dev/`, "where it led");
  equal(answer.status, 200, "status");
});

test("a connection opens, and its log shows what is sent and what comes", async () => {
  await connect(page, "lobby", "name=Ann");
  equal(await status(page), "/chat/lobby?name=Ann open: generation 1", "the status");
  const hello = JSON.parse(await eventually("hello comes", async () => (await frames(page, "in"))[0]));
  equal(hello.name, "Ann", "the name in hello");
  await say(page, "hello <b>moon</b>");
  await hears(page, "hello <b>moon</b>");
  equal((await frames(page, "out")).join(), '{"type":"text","text":"hello <b>moon</b>","ref":1}', "what was sent");
  equal(await page.$$eval("#log b", (all) => all.length), 0, "elements made of a text");
  await eventually("the card counts it", async () => /Connections\s*1/.test(await card(page)));
});

test("JSON is shown in lines when asked, and what was sent can be sent again", async () => {
  await page.click("#log .frame.in >> nth=-1 >> text=JSON");
  includes((await frames(page, "in")).at(-1), '\n  "text": "hello <b>moon</b>"', "the message in lines");
  await page.click("#log .frame.in >> nth=-1 >> text=JSON");
  await page.click("#log .frame.out >> text=Again");
  await eventually("it is answered again", async () => (await frames(page, "in")).filter((text) => text.includes("moon")).length === 2);
});

test("a text that is not JSON is held back when only JSON may go", async () => {
  await page.check("#json-check");
  await page.fill("#message", "{oops");
  await page.press("#message", "Enter");
  await eventually("the page tells why", async () => (await page.textContent("#message-problem")).startsWith("Not JSON"));
  equal((await frames(page, "out")).length, 2, "messages sent");
  await page.uncheck("#json-check");
  await page.fill("#message", "");
});

test("a file is sent as one binary message", async () => {
  await page.setInputFiles("#file", { name: "three.bin", mimeType: "application/octet-stream", buffer: Buffer.from([0, 65, 255]) });
  await eventually("the log shows its bytes", async () => (await frames(page, "out")).at(-1).startsWith("0000  00 41 ff"));
  includes(await log(page), "binary three.bin, 3 B", "the line of the file");
  await eventually("the script answers", async () => JSON.parse((await frames(page, "in")).at(-1)).type === "error");
});

test("several connections are tabs, and a tab counts what came unseen", async () => {
  await connect(page, "lobby", "name=Bob");
  await say(page, "from the second tab");
  await hears(page, "from the second tab");
  equal(await page.$$eval("#tabs button", (all) => all.length), 2, "tabs");
  await eventually("the first tab counts", async () => await page.textContent("#tab-1") === "1 chat (2 new)");
  equal(await page.textContent("#open-count"), "2 open", "open connections");
  await shot(page, "tabs");
  await page.click("#tab-1");
  await hears(page, "from the second tab");
  equal(await page.textContent("#tab-1"), "1 chat", "the tab once it was looked at");
  await page.press("#tab-1", "ArrowRight");
  equal(await page.getAttribute("#tab-2", "aria-selected"), "true", "the tab that the arrow key chose");
});

test("a close is shown with its code, its meaning and its reason", async () => {
  await page.fill("#close-code", "4000");
  await page.fill("#close-reason", "enough");
  await page.click("#disconnect");
  await eventually("the second is closed", async () => (await status(page)).includes("closed: 4000, agreed between the script and its pages"));
  includes(await log(page), "Disconnecting with 4000: enough", "the log");
  equal(await page.getAttribute("#tab-2", "data-state"), "closed", "the tab's sign");
  await page.click("#again");
  await eventually("it is open again", async () => (await status(page)).includes("open: generation 1"));
  await page.click("#close-tab");
  equal(await page.$$eval("#tabs button", (all) => all.length), 1, "tabs");
});

test("a close by the relay too, and a code that may not be sent is refused", async () => {
  await page.fill("#params input", "x".repeat(300));
  await page.click("#connect");
  await eventually("the relay closed", async () => (await status(page)).includes("closed: 1008, against the rules"));
  includes(await log(page), "reason: the room's name is too long", "the log");
  const told = await status(page);
  await shot(page, "closed");
  await page.fill("#params input", "lobby");
  await page.click("#close-tab");
  await page.fill("#close-code", "1008");
  await page.click("#disconnect");
  await eventually("the page says so", async () => (await log(page)).includes("Not disconnected"));
  includes(await status(page), "open", "the status");
  await page.fill("#close-code", "1000");
  includes(told, "xxx… closed", "the status of the one that was closed, whose long address is cut");
});

test("a saved script is a new generation, and the connection stays open", async () => {
  await change(/local GREETING = "[^"]*"/.exec(await readFile(join(talk.folder, "talk/scripts/chat.lua"), "utf8"))[0], 'local GREETING = "A new greeting"');
  await eventually("the generation rises", async () => await generation(page) === 2);
  includes(await card(page), "generation 1 → 2", "the card");
  await eventually("the log says so", async () => (await log(page)).includes("generation 1 → 2, this connection stayed open"));
  await hears(page, "A new greeting");
  equal(await status(page), "/chat/lobby?name=Ann open: generation 2", "the status");
  await say(page, "after the reload");
  await hears(page, "after the reload");
  equal((await log(page)).match(/Connecting/g).length, 1, "connections that the log tells of");
  await shot(page, "reloaded");
});

test("a script that is broken leaves the old generation, and the page shows where", async () => {
  const line = await change("local TEXT_BYTES = 4000", "local TEXT_BYTES = = 4000");
  await page.waitForSelector('.card[data-reload="failed"]');
  const text = await card(page);
  includes(text, "Reload failed", "the card");
  includes(text, "generation 2 goes on", "the card");
  includes(text, `chat.lua:${line}:`, "the card");
  const hit = await page.textContent(".card .source .hit");
  includes(hit, `${line} │ local TEXT_BYTES = = 4000`, "the line that is shown");
  equal(await generation(page), 2, "generation");
  includes(await page.title(), "✗ chat", "the title");
  await say(page, "still here");
  await hears(page, "still here");
  await shot(page, "broken");
});

test("once it is mended, the fault is gone", async () => {
  await change("local TEXT_BYTES = = 4000", "local TEXT_BYTES = 4000");
  await eventually("no fault is shown", async () => await page.getAttribute(".card", "data-reload") !== "failed");
  equal(await page.$$eval(".card .source", (all) => all.length), 0, "faults on the card");
  equal(await page.title(), "moonwire dev", "the title");
  includes(await status(page), "open", "the status");
});

test("an error in a callback is listed with its line and a hint", async () => {
  const before = await generation(page);
  const line = await change("text:upper()", "text:uper()");
  await eventually("the generation rises", async () => await generation(page) > before);
  equal(await page.textContent("#error-count"), "0", "errors so far");
  await say(page, "/shout hello");
  await eventually("the peer is told", async () => (await frames(page, "in")).some((text) => JSON.parse(text).why?.includes("the chat's script failed")));
  await eventually("it is counted", async () => await page.textContent("#error-count") === "1");
  await open(page, "#errors-panel");
  await page.click("#errors summary");
  const row = await page.innerText("#errors > li");
  for (const wanted of ["on_message", `chat.lua:${line}:`, "Hint: ", "look for a typing mistake", `generation ${before + 1}`]) includes(row, wanted, "the error");
  includes(await page.textContent("#errors .hit"), 'text:uper() .. "!"', "the line that is shown");
  await shot(page, "error");
  await page.click("#errors .traceback summary");
  await eventually("the traceback opens", () => page.isVisible("#errors .traceback pre"));
  await change("text:uper()", "text:upper()");
  await eventually("the generation rises", async () => await generation(page) > before + 1);
  await say(page, "/shout hello");
  await hears(page, "HELLO!");
  equal(await page.isVisible("#errors .traceback pre"), true, "the traceback, still open");
});

test("the trace shows messages in and out while it is on", async () => {
  await open(page, "#trace-panel");
  await page.click("#trace-toggle");
  await page.waitForSelector("#trace-toggle[aria-checked=true]:enabled");
  await say(page, "traced");
  for (const direction of ["in", "out"]) {
    await eventually(`a message ${direction}`, () => page.$$eval(`#trace .frame.${direction} pre`, (all) => all.some((text) => text.textContent.includes('"traced"'))));
  }
  await page.fill("#trace-text", "no such text");
  await eventually("the filter hides them", async () => (await page.textContent("#trace-about")).startsWith("0 of"));
  await page.fill("#trace-text", "");
  await shot(page, "trace");
});

test("and nothing any more once it is off", async () => {
  await page.click("#trace-toggle");
  await page.waitForSelector("#trace-toggle[aria-checked=false]:enabled");
  equal((await state()).trace, false, "the trace of the relay");
  const last = async () => (await (await fetch(`${talk.url}/_dev/trace.json`)).json()).entries.at(-1).seq;
  const before = await last();
  await say(page, "not traced");
  await hears(page, "not traced");
  equal(await last(), before, "the last entry");
  includes(await page.textContent("#trace-state"), "off", "the sign");
});

test("a page of another origin cannot switch the trace, nor read anything", async () => {
  const send = (origin) => fetch(`${talk.url}/_dev/trace`, { method: "POST", body: '{"on":true}', headers: { origin } });
  for (const origin of ["http://evil.example", "null", `http://localhost:${new URL(talk.url).port}`]) {
    equal((await send(origin)).status, 403, `the answer to ${origin}`);
    equal((await state()).trace, false, "the trace");
    for (const file of ["apps.json", "trace.json"]) equal((await fetch(`${talk.url}/_dev/${file}`, { headers: { origin } })).status, 403, `${file} for ${origin}`);
  }
  equal((await send(talk.url)).status, 200, "the answer to the page's own origin");
  await page.waitForSelector("#trace-toggle[aria-checked=true]"); // whoever switches it, the page follows
  await page.click("#trace-toggle");
  await page.waitForSelector("#trace-toggle[aria-checked=false]:enabled");
});

test("a phone shows everything without a sideways scroll", async () => {
  await change("local TEXT_BYTES = 4000", "local TEXT_BYTES = = 4000");
  await page.waitForSelector('.card[data-reload="failed"]');
  await shot(page, "everything");
  for (const colorScheme of ["light", "dark"]) {
    const name = `phone-${colorScheme}`;
    const phone = await visit(name, { viewport: { width: 375, height: 720 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true, colorScheme });
    await connect(phone, "phones", "name=Cleo");
    await connect(phone, "phones", `name=Dan&note=${"long".repeat(30)}`);
    await say(phone, `A word that is far too long for a phone: ${"moon".repeat(60)}`);
    await eventually("it is answered", async () => (await frames(phone, "in")).some((text) => text.includes("moonmoon")));
    await open(phone, "#errors-panel");
    await phone.click("#errors summary");
    await phone.click("#errors .traceback summary");
    await open(phone, "#trace-panel");
    await phone.waitForSelector('.card[data-reload="failed"] .source');
    await phone.evaluate(() => window.scrollTo(0, 0));
    await shot(phone, name);
    await fits(phone, 375, name);
    await leave(name);
  }
  await change("local TEXT_BYTES = = 4000", "local TEXT_BYTES = 4000");
});

test("a relay that is killed is told in a banner, and in the connection's log", async () => {
  page.mayMiss = true;
  await relay.end("SIGKILL");
  await page.waitForSelector("#banner:not([hidden])");
  includes(await page.textContent("#banner-text"), "The relay is away.", "the banner");
  equal(await page.getAttribute("#relay", "data-state"), "away", "the sign");
  await eventually("the connection tells", async () => (await log(page)).includes("Closed: 1006, no close frame"));
  await page.evaluate(() => window.scrollTo(0, 0));
  await shot(page, "away");
  await say(page, "to nobody");
  equal(await page.textContent("#message-problem"), "Not connected: nothing was sent.", "what is said of a message now");
});

test("once it is back, the page goes on by itself, and the connection with a click", async () => {
  relay = await startDev(talk);
  await page.waitForSelector("#banner", { state: "hidden" });
  await page.waitForSelector("#relay[data-state=here]");
  page.mayMiss = false;
  await eventually("the new relay's generation", async () => await generation(page) === 1);
  equal(await page.textContent("#error-count"), "0", "errors of the new relay");
  await page.click("#again");
  await eventually("it is open again", async () => (await status(page)).includes("open: generation 1"));
  await say(page, "back again");
  await hears(page, "back again");
});

test("a relay that stops says so with 1012", async () => {
  page.mayMiss = true;
  await relay.end();
  await eventually("the connection tells", async () => (await log(page)).includes("Closed: 1012, the relay restarts"));
  relay = await startDev(talk);
  await page.click("#retry").catch(() => {}); // the page may have asked by itself
  await page.waitForSelector("#relay[data-state=here]");
  page.mayMiss = false;
});

test("what was filled in is there again after the page is loaded anew", async () => {
  await page.fill("#params input", "kept");
  await page.press("#params input", "Tab");
  await page.reload();
  await eventually("the form is filled", async () => await page.inputValue("#params input") === "kept");
  equal(await page.$eval("#trace-panel", (panel) => panel.open), true, "the trace's panel, open as it was");
});

test("the page had no error of its own, and broke no rule of its policy", async () => {
  await leave("page");
});

// ── run ──

async function scene() {
  for (const [name, page] of pages) {
    const text = await page.evaluate(() => document.body.innerText).catch((error) => error.message);
    console.log(`\n── ${name} ──\n${text.trim()}\n${page.problems.join("\n")}`);
    await shot(page, `failed-${name}`).catch(() => {});
  }
  console.log(`\n── the relay's log ──\n${relay?.log() ?? "(not running)"}`);
}

let passed = 0;
let failed = 0;
try {
  if (process.env.SCREENSHOTS) await mkdir(process.env.SCREENSHOTS, { recursive: true });
  browser = await chromium.launch({
    executablePath: browserPath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
  });
  for (const { name, run } of tests) {
    try {
      await run();
      passed += 1;
      console.log(`ok     ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}\n       ${error.message}`);
      await scene();
    }
  }
} catch (error) {
  failed += 1;
  console.log(`FAILED to begin: ${error.message}`);
} finally {
  await browser?.close();
  await relay?.end();
  for (const child of children) child.kill("SIGKILL");
  if (talk) await rm(talk.folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
