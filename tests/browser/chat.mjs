// Drives the chat's page and the auth example's page in a real browser, against a real relay.
//
//   npm ci && npm test                      with target/release/moonwire and Debian's chromium
//   MOONWIRE=… CHROMIUM=… SCREENSHOTS=…     another relay, another browser, a folder for pictures
//
// Every wait is for a condition and has a deadline. When a test fails, the whole scene is printed:
// what each page shows, and the relay's log.

import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { crc32, deflateSync } from "node:zlib";
import { chromium } from "playwright-core";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const binary = resolve(process.env.MOONWIRE ?? join(root, "target/release/moonwire"));
const browserPath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const WAIT_MS = 15_000;
const RELOAD_MS = 2_000;
const FILE_BYTES = 16 * 1024 * 1024;

// ── waiting ──

/** What `look` gives as soon as it is truthy; fails with `what` at the deadline. */
async function eventually(what, look, within = WAIT_MS) {
  const deadline = Date.now() + within;
  let error;
  for (;;) {
    try {
      const seen = await look();
      if (seen) return seen;
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

// ── the relay ──

async function freePort() {
  const server = createServer();
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

/** A running relay: `{ url, log(), stop() }`. Ready once it accepts connections. */
async function startRelay(config) {
  const text = await readFile(config, "utf8");
  const url = `http://${/^listen\s*=\s*\[?\s*"([^"]+)"/m.exec(text)[1]}`;
  const child = spawn(binary, ["-c", config], { cwd: dirname(config), stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (part) => { log += part; });
  let ended;
  const end = new Promise((done) => {
    child.on("error", (error) => { ended = error.message; done(); });
    child.on("exit", (code, signal) => { ended ??= `exit ${code ?? signal}`; done(); });
  });
  await eventually("the relay answers", async () => {
    if (ended) return true;
    return (await fetch(url)).status > 0;
  });
  if (ended) throw new Error(`the relay did not start (${ended}):\n${log}`);
  return {
    url,
    log: () => log,
    async stop() {
      child.kill("SIGTERM");
      const killer = setTimeout(() => child.kill("SIGKILL"), WAIT_MS);
      await end;
      clearTimeout(killer);
    },
  };
}

async function chatFolder() {
  const folder = await mkdtemp(join(tmpdir(), "moonwire-browser-"));
  await cp(join(root, "scripts"), join(folder, "scripts"), { recursive: true });
  await writeFile(join(folder, "config.toml"), `
[server]
listen = ["127.0.0.1:${await freePort()}"]
control = "${join(folder, "control.sock")}"

[[app]]
name = "chat"
path = "/chat/{room}"
script = "scripts/chat.lua"

[[static]]
path = "/"
folder = "scripts/page"
`);
  return folder;
}

/** The auth example as it is committed, but on a free port. */
async function authFolder() {
  const folder = await mkdtemp(join(tmpdir(), "moonwire-browser-"));
  await cp(join(root, "examples/auth"), folder, { recursive: true });
  const config = join(folder, "config.toml");
  const text = await readFile(config, "utf8");
  await writeFile(config, text.replace(/^listen\s*=.*$/m,
    `listen = ["127.0.0.1:${await freePort()}"]\ncontrol = "${join(folder, "control.sock")}"`));
  return folder;
}

/** Replaces a file as editors do: writes beside it and renames over it. */
async function save(file, text) {
  await writeFile(`${file}.new`, text);
  await rename(`${file}.new`, file);
}

// ── the pages ──

const people = new Map(); // name → page, for the scene

async function visit(browser, name, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT_MS);
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (message) => {
    // A relay that is away is part of these tests, and the browser says so in its console.
    if (message.type() === "error" && !/WebSocket|ERR_CONNECTION|status of 40[13]/.test(message.text())) page.problems.push(message.text());
  });
  people.set(name, page);
  await page.goto(url);
  return page;
}

async function join_(browser, name, room, url, options) {
  const page = await visit(browser, name, `${url}/#${room}`, options);
  await shot(page, `door-${name}`);
  await page.fill("#name", name);
  await page.click("#enter button");
  await connected(page);
  return page;
}

const connected = (page) => page.waitForSelector("#status[data-state=open]");
const openings = (page) => page.getAttribute("#status", "data-opened");
const lastText = (page) => page.$$eval("#log .said .text", (all) => all.at(-1)?.textContent ?? "");
const notes = (page) => page.$$eval("#log .note", (all) => all.map((note) => note.textContent).join("\n"));
const names = (page) => page.$$eval("#people-list .who", (all) => all.map((who) => who.textContent).sort().join(","));

async function say(page, text) {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
}

async function hears(page, text, within) {
  await eventually(`a page shows ${JSON.stringify(text)}`, async () => await lastText(page) === text, within);
}

async function shot(page, name) {
  if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`) });
}

/** A PNG of a gradient: small, and nothing but this program is needed to make it. */
function picture(width, height) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const rows = Buffer.alloc(height * (1 + width * 3));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) rows.set([40 + 180 * x / width, 60 + 90 * y / height, 220 - 120 * x / width], y * (1 + width * 3) + 1 + x * 3);
  }
  return Buffer.concat([Buffer.from("89504e470d0a1a0a", "hex"), chunk("IHDR", head), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

// ── the tests: one after the other, each in the scene that the one before left ──

const tests = [];
const test = (name, run) => tests.push({ name, run });
let browser, relay, folder, ann, bob;

test("two people in one room see each other", async () => {
  folder = await chatFolder();
  relay = await startRelay(join(folder, "config.toml"));
  ann = await join_(browser, "Ann", "lobby", relay.url);
  bob = await join_(browser, "Bob", "lobby", relay.url);
  await eventually("Ann sees both", async () => await names(ann) === "Ann,Bob");
  await eventually("Bob sees both", async () => await names(bob) === "Ann,Bob");
  await eventually("Ann is told", async () => (await notes(ann)).includes("Bob joined"));
});

test("a text goes both ways, as text and never as markup", async () => {
  await say(ann, "Hello <b>Bob</b> & <img src=x onerror=alert(1)>");
  await hears(bob, "Hello <b>Bob</b> & <img src=x onerror=alert(1)>");
  await say(bob, "Hi Ann\u{1F319}");
  await hears(ann, "Hi Ann\u{1F319}");
  equal(await bob.$$eval("#log img, #log b", (all) => all.length), 0, "elements made of a text");
  await eventually("what was sent is confirmed", async () => await ann.$$eval(".pending", (all) => all.length) === 0);
});

test("a person of another room hears nothing of it", async () => {
  const eve = await join_(browser, "Eve", "elsewhere", relay.url);
  await say(ann, "only for the lobby");
  await hears(bob, "only for the lobby");
  await say(eve, "to myself"); // its echo comes after whatever else was on its way
  await hears(eve, "to myself");
  equal(await eve.$$eval("#log .text", (all) => all.length), 1, "texts that Eve sees");
  equal(await names(eve), "Eve", "who is in Eve's room");
  await eve.context().close();
  people.delete("Eve");
});

test("a name as ugly as __proto__ or full of direction marks is only a name", async () => {
  const odd = await join_(browser, "__proto__", "lobby", relay.url);
  await eventually("Ann sees it", async () => (await names(ann)).includes("__proto__"));
  await odd.context().close();
  people.delete("__proto__");
  await eventually("and sees it go", async () => await names(ann) === "Ann,Bob");
});

test("typing shows, and ends with the text", async () => {
  await bob.type("#text", "I am wri");
  await eventually("Ann sees it", async () => await ann.textContent("#typing-text") === "Bob is typing…");
  await shot(ann, "typing");
  await bob.press("#text", "Enter");
  await hears(ann, "I am wri");
  await eventually("it ends", async () => await ann.textContent("#typing-text") === "");
});

test("a picture is shown in both pages", async () => {
  const bytes = picture(480, 300);
  await ann.setInputFiles("#files", { name: "evening.png", mimeType: "image/png", buffer: bytes });
  for (const page of [ann, bob]) {
    const width = await eventually("a page shows the picture", () => page.$eval(".picture img", (image) => image.complete && image.naturalWidth));
    equal(width, 480, "its width");
  }
  const [download] = await Promise.all([bob.waitForEvent("download"), bob.click('a.file-name[download="evening.png"]')]);
  equal(sha256(await readFile(await download.path())), sha256(bytes), "the picture that Bob saved");
  await bob.click(".picture");
  await eventually("a click enlarges it", () => bob.isVisible("#viewer-image"));
  await bob.keyboard.press("Escape");
});

test("a file of 16 MiB arrives whole, and both pages show how far it is", async () => {
  const bytes = randomBytes(FILE_BYTES);
  const path = join(folder, "large.bin");
  await writeFile(path, bytes);
  // Each step of both bars is noted by the pages themselves, so that none is missed.
  for (const page of [ann, bob]) {
    await page.evaluate(() => {
      window.steps = [];
      new MutationObserver(() => {
        const bar = document.querySelector("#log li:last-child progress");
        if (bar) window.steps.push(bar.value);
      }).observe(document.querySelector("#log"), { childList: true, subtree: true, characterData: true, attributes: true });
    });
  }
  await ann.setInputFiles("#files", path);
  const link = await bob.waitForSelector('a.file-name[download="large.bin"]', { timeout: 60_000 });
  await ann.waitForSelector('a.file-name[download="large.bin"]');
  for (const [page, who] of [[ann, "the sender"], [bob, "the receiver"]]) {
    const steps = await page.evaluate(() => window.steps);
    const rising = steps.every((step, i) => i === 0 || step >= steps[i - 1]);
    const between = new Set(steps.filter((step) => step > 0 && step < 16 * 1024 * 1024)).size;
    if (!rising || between < 5) throw new Error(`${who}'s progress: ${steps.slice(0, 20)}… (${between} steps between)`);
  }
  const [download] = await Promise.all([bob.waitForEvent("download"), link.click()]);
  equal(sha256(await readFile(await download.path())), sha256(bytes), "the file that Bob saved");
  equal(await openings(ann), "1", "connections of Ann");
  equal(await openings(bob), "1", "connections of Bob");
});

test("a file that is too large is refused before it is sent", async () => {
  const path = join(folder, "larger.bin");
  await writeFile(path, Buffer.alloc(FILE_BYTES + 1));
  await ann.setInputFiles("#files", path);
  await eventually("Ann is told", async () => (await notes(ann)).includes("larger.bin is larger than 16 MiB"));
});

test("texts go on during a file", async () => {
  await ann.setInputFiles("#files", join(folder, "large.bin"));
  await bob.waitForSelector("#log progress");
  await say(bob, "meanwhile");
  await hears(ann, "meanwhile");
  await say(ann, "still here");
  await hears(bob, "still here");
  await eventually("the second file too", () => bob.$$eval('a.file-name[download="large.bin"]', (all) => all.length === 2), 60_000);
});

test("a saved script works for those who are connected, and nobody is disconnected", async () => {
  const script = join(folder, "scripts/chat.lua");
  const text = await readFile(script, "utf8");
  await say(ann, "/shout before");
  await hears(bob, "BEFORE!");
  await save(script, text
    .replace('return text:upper() .. "!"', 'return "<<" .. text .. ">>"')
    .replace(/local GREETING = ".*"/, 'local GREETING = "The script has changed"'));
  await eventually("both are greeted by the new script", async () =>
    (await notes(ann)).includes("The script has changed") && (await notes(bob)).includes("The script has changed"), RELOAD_MS);
  await say(ann, "/shout after");
  await hears(bob, "<<after>>");
  equal(await openings(ann), "1", "connections of Ann");
  equal(await openings(bob), "1", "connections of Bob");
  equal(await names(bob), "Ann,Bob", "who is here after the reload");
});

test("a broken script changes nothing", async () => {
  const script = join(folder, "scripts/chat.lua");
  const text = await readFile(script, "utf8");
  const logged = relay.log().length;
  await save(script, `${text}\nthis is not Lua`);
  await eventually("the relay says so", () => /chat\.lua:\d+/.test(relay.log().slice(logged)), RELOAD_MS);
  await say(ann, "/shout still");
  await hears(bob, "<<still>>");
  await save(script, text);
  equal(await openings(bob), "1", "connections of Bob");
});

test("after a restart of the relay the pages come back by themselves", async () => {
  await relay.stop();
  for (const page of [ann, bob]) await page.waitForSelector("#banner:not([hidden])");
  await shot(ann, "reconnecting");
  relay = await startRelay(join(folder, "config.toml"));
  for (const page of [ann, bob]) {
    await connected(page);
    equal(await openings(page), "2", "connections");
  }
  await eventually("both are here again", async () => await names(ann) === "Ann,Bob" && await names(bob) === "Ann,Bob");
  await say(bob, "back again");
  await hears(ann, "back again");
});

test("a refusal is shown with its reason, and not tried again", async () => {
  const long = await visit(browser, "Long", `${relay.url}/#${"x".repeat(300)}`);
  await long.fill("#name", "Long");
  await long.evaluate(() => { document.querySelector("#room").removeAttribute("maxlength"); });
  await long.click("#enter button");
  await long.waitForSelector("#status[data-state=refused]");
  equal(await long.textContent("#banner-text"), "The relay refused this connection (1008): the room's name is too long", "the banner");
  await long.context().close();
  people.delete("Long");
});

test("two windows of a phone's width show everything without a sideways scroll", async () => {
  const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
  const cleo = await join_(browser, "Cleo", "phones", relay.url, { ...phone, colorScheme: "dark" });
  const dan = await join_(browser, "Dan", "phones", relay.url, { ...phone, colorScheme: "light" });
  await say(cleo, "A word that is far too long for a phone: " + "moon".repeat(40));
  await dan.setInputFiles("#files", { name: "a name that is long enough to need cutting somewhere.png", mimeType: "image/png", buffer: picture(1600, 900) });
  await cleo.waitForSelector(".picture img");
  await dan.type("#text", "on my way");
  await eventually("Cleo sees Dan type", async () => (await cleo.textContent("#typing-text")).startsWith("Dan"));
  for (const [page, name] of [[cleo, "phone-dark"], [dan, "phone-light"]]) {
    await shot(page, name);
    const [content, width] = await page.evaluate(() => [Math.max(document.documentElement.scrollWidth, document.querySelector("#log").scrollWidth), innerWidth]);
    if (content > width) throw new Error(`${name} is ${content} px wide in ${width}`);
  }
  await cleo.click("#show-people");
  await eventually("the list opens", () => cleo.isVisible("#people-list"));
  equal(await names(cleo), "Cleo,Dan", "who is here");
  await shot(cleo, "phone-people");
  for (const page of [cleo, dan]) await page.context().close();
  people.delete("Cleo");
  people.delete("Dan");
});

test("no page had an error of its own", async () => {
  await shot(ann, "desktop");
  for (const [name, page] of people) equal(page.problems.join("; "), "", `${name}'s console`);
  for (const page of people.values()) await page.context().close();
  people.clear();
  await relay.stop();
  await rm(folder, { recursive: true });
  relay = folder = undefined;
});

// ── the auth example ──

async function logIn(page, user, password, room) {
  await page.fill("#user", user);
  await page.fill("#password", password);
  await page.selectOption("#room", room);
  await page.click("#login button");
}

const authLog = (page) => page.$$eval("#log li", (all) => all.map((line) => line.textContent).join("\n"));
const outcome = (page) => page.textContent("#outcome");

test("auth: a wrong password is refused, and the page says so", async () => {
  folder = await authFolder();
  relay = await startRelay(join(folder, "config.toml"));
  ann = await visit(browser, "admin", relay.url);
  await logIn(ann, "ada", "wrong", "lobby");
  await eventually("the page tells", async () => (await outcome(ann)).includes("wrong name or password"));
  await shot(ann, "auth-refused-login");
});

test("auth: who has logged in comes in with a role", async () => {
  await logIn(ann, "ada", "ada-secret", "lobby");
  await eventually("Ada is in", async () => (await outcome(ann)).includes("ada, admin"));
  bob = await visit(browser, "viewer", relay.url);
  await logIn(bob, "vic", "vic-secret", "lobby");
  await eventually("Vic is in", async () => (await outcome(bob)).includes("vic, viewer"));
  await say(ann, "hello from the admin");
  await eventually("Vic reads it", async () => (await authLog(bob)).includes("hello from the admin"));
});

test("auth: a viewer may not write, and is told why", async () => {
  await say(bob, "let me in");
  await eventually("the page tells", async () => (await authLog(bob)).includes("a viewer may not write in lobby"));
  await shot(bob, "auth-viewer");
});

test("auth: a room that the role may not enter closes with 4403 and its reason", async () => {
  const vera = await visit(browser, "refused", relay.url, { viewport: { width: 390, height: 844 } });
  await logIn(vera, "vic", "vic-secret", "board");
  await eventually("the page shows code and reason", async () => /4403.*board/.test(await outcome(vera)));
  await shot(vera, "auth-refused");
});

test("auth: a forged token closes with 4401 and its reason", async () => {
  const page = people.get("refused");
  await page.click("#forge");
  await eventually("the page shows code and reason", async () => (await outcome(page)).includes("4401"));
  for (const [name, each] of people) equal(each.problems.join("; "), "", `${name}'s console`);
});

test("auth: an admin removes somebody", async () => {
  await say(ann, "/remove vic");
  await eventually("Vic is out", async () => /4403.*removed/.test(await outcome(bob)));
  await shot(ann, "auth-admin");
});

// ── run ──

async function scene() {
  for (const [name, page] of people) {
    const text = await page.evaluate(() => document.body.innerText).catch((error) => error.message);
    console.log(`\n── ${name}'s page ──\n${text.trim()}\n${page.problems.join("\n")}`);
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
  await relay?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
