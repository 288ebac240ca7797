//! `moonwire.test`: what files of tests have.

use super::{Entry, Type};

pub const TYPES: &[Type] = &[
    Type {
        name: "TestOptions",
        means: "{ settings: { [string]: any }?, instances: number?, http: HttpStub?, env: { [string]: string }? }",
    },
    Type {
        name: "HttpStub",
        means: "((request: HttpRequest) -> (StubAnswer?, string?)) | { [string]: StubAnswer | string }",
    },
    Type { name: "StubAnswer", means: "{ status: number?, headers: { [string]: string }?, body: string? }" },
    Type { name: "ConnectOptions", means: "{ headers: { [string]: string }?, subprotocols: { string }? }" },
    Type {
        name: "TestRequest",
        means: "{ path: string, method: string?, headers: { [string]: string }?, body: string? }",
    },
    Type { name: "ReloadReport", means: "{ ok: boolean, from: number?, generation: number?, error: string? }" },
    Type { name: "PeerRefused", means: "{ status: number?, code: number?, reason: string }" },
    Type { name: "PeerClosed", means: "{ code: number, reason: string }" },
    Type { name: "LogLine", means: "{ level: string, message: string }" },
];

/// What the examples begin with: an app `chat` whose members of `room.{room}` hear each other.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "moonwire.test.case",
        signature: "(name: string, fn: () -> ()) -> ()",
        does: "Tells a case: `moonwire test` runs `fn` with apps, peers and a clock of its own. The file is run anew for \
            each case, so no case sees what another has left.",
        arguments: &[("name", "a sentence; no two cases of a file have the same"), ("fn", "the case; it may wait")],
        results: "",
        errors: &["raises if there is a case of this name already"],
        cost: "A case with one app takes about a millisecond.",
        example: r#"test.case("a message reaches the others and not its sender", function()
  local app = test.app("chat")
  local ann, bob = app:connect("/chat/lobby?name=ann"), app:connect("/chat/lobby?name=bob")
  ann:send("hi")
  test.equal(bob:receive(), "hi")
  test.silent(ann)
end)"#,
    },
    Entry {
        name: "moonwire.test.app",
        signature: "(name: string, options: TestOptions?) -> App",
        does: "Starts an app of the config in the real host, alone: its script loaded, its clock standing still, its \
            store empty. After each callback its states are looked at, and what a reload could not carry over is an \
            error in the log at once.",
        arguments: &[
            ("name", "the app's name in the config"),
            ("options.settings", "laid over the settings of the config, field by field"),
            ("options.instances", "how many Lua VMs share the peers; the config's number without it"),
            ("options.env", "the variables that `relay.env` finds, of those that the config lists; none without it"),
            (
                "options.http",
                "answers in the place of all servers that `http.allow` lists: a function, or a table from URLs to \
                 answers. Without it each request returns nil, and the network is never touched",
            ),
        ],
        results: "The app.",
        errors: &["raises if the config has no such app, or its script does not load", "raises outside of a case"],
        cost: "Loads the script: about a millisecond.",
        example: r#"test.case("settings and stubs", function()
  local app = test.app("chat", {
    settings = { secret = "s" },
    instances = 2,
    http = { ["https://api.example.com/motd"] = "Welcome" },
  })
  test.equal(app:connect("/chat/lobby?name=ann").refused, nil)
end)"#,
    },
    Entry {
        name: "moonwire.test.equal",
        signature: "(got: any, expected: any) -> ()",
        does: "Fails the case unless both are the same; tables are compared by what is in them, and the failure names \
            each path where they differ.",
        arguments: &[("got", "what came out"), ("expected", "what was to come out")],
        results: "",
        errors: &["raises where they differ"],
        cost: "Looks at every field of both.",
        example: r#"test.case("tables are compared by what is in them", function()
  test.equal({ a = { 1, 2 } }, { a = { 1, 2 } })
end)"#,
    },
    Entry {
        name: "moonwire.test.silent",
        signature: "(...any) -> ()",
        does: "Fails the case if one of the peers has received something that it has not taken. No time needs to pass: \
            everything that can happen has happened when a call returns.",
        arguments: &[("…", "peers")],
        results: "",
        errors: &["raises with the message that was delivered"],
        cost: "Cheap.",
        example: r#"test.case("nobody hears what is said in another room", function()
  local app = test.app("chat")
  local ann, bob = app:connect("/chat/one?name=ann"), app:connect("/chat/two?name=bob")
  ann:send("hi")
  test.silent(ann, bob)
end)"#,
    },
    Entry {
        name: "moonwire.test.raises",
        signature: "(fn: () -> (), part: string?) -> any",
        does: "Fails the case unless `fn` raises, with `part` in the error's text if it is given.",
        arguments: &[("fn", "what is to raise"), ("part", "plain text, no pattern")],
        results: "The error.",
        errors: &["raises if `fn` does not, or with another text"],
        cost: "Cheap.",
        example: r#"test.case("a mistake is told", function()
  test.raises(function() error("no such room") end, "no such")
end)"#,
    },
    Entry {
        name: "moonwire.test.play",
        signature: "(app: App, transcript: string) -> ()",
        does: "Plays a transcript, line by line. Everything that is delivered must be in it, so silence needs no line. \
            Lines: `ann opens`, `ann opens /chat/lobby?name=ann`, `ann > hi` (she sends), `bob < hi` (he has received), \
            `ann closes 4000 bye`, `ann vanishes`, `bob is closed 1011`, `eve is refused 401`, `1.5s pass`, `reload`; \
            `--` begins a comment. Of JSON objects the order of the fields does not count.",
        arguments: &[
            ("app", "what `test.app` gave"),
            ("transcript", "the lines; peers of an earlier transcript of the same app are still there"),
        ],
        results: "",
        errors: &["raises at the first line that is not as it was written, with the scene so far"],
        cost: "As the calls that it stands for.",
        example: r#"test.case("a conversation", function()
  test.play(test.app("chat"), [[
    ann opens
    bob opens
    ann > hi
    bob < hi
    30s pass
    reload
    bob > still here
    ann < still here
  ]])
end)"#,
    },
    Entry {
        name: "moonwire.test.matrix",
        signature: "(peers: { [string]: Peer }, table: string) -> ()",
        does: "Compares what peers may do with a table: the first line names the peers, each other one has an action, a \
            resource, and `yes` or `no` for each peer. All that differs is told at once.",
        arguments: &[("peers", "by the names that the table uses"), ("table", "the lines")],
        results: "",
        errors: &["raises with every cell that is wrong, and the rule that decided"],
        cost: "Asks the lists of each peer once for each cell.",
        example: r#"test.case("everybody may do everything without lists", function()
  local app = test.app("chat")
  test.matrix({ ann = app:connect("/chat/lobby?name=ann") }, [[
                    ann
    join room.x     yes
    publish room.x  yes
  ]])
end)"#,
    },
    Entry {
        name: "app:connect",
        signature: "(target: string, options: ConnectOptions?) -> Peer",
        does: "Connects a peer, through every check of a real handshake: path, origin, subprotocol, `authenticate`, \
            `on_open`.",
        arguments: &[
            ("target", "path and query, as in a URL"),
            ("options.headers", "such as `{ cookie = \"a=b\", origin = \"https://example.com\" }`"),
            ("options.subprotocols", "what the peer offers"),
        ],
        results: "The peer, also if it was refused: then `peer.refused` says so.",
        errors: &["raises if `target` is no string, or an option is unknown"],
        cost: "Runs `authenticate` and `on_open`; a wait in them passes in virtual time.",
        example: r#"test.case("pages of other sites stay out", function()
  local peer = test.app("chat"):connect("/chat/lobby", { headers = { origin = "https://evil.example" } })
  test.equal(peer.refused.status, 403)
end)"#,
    },
    Entry {
        name: "app:advance",
        signature: "(seconds: Duration) -> ()",
        does: "Lets time pass, timer by timer, at once.",
        arguments: &[("seconds", "seconds, or a string such as `\"5m\"`")],
        results: "",
        errors: &["raises if it is no duration"],
        cost: "Only what happens in that time costs anything.",
        example: r#"test.case("time passes when it is told to", function()
  local app = test.app("chat")
  app:advance("1h")
end)"#,
    },
    Entry {
        name: "app:reload",
        signature: "(script: string?) -> ReloadReport",
        does: "Loads the app's script again, changed or not, or another one in its place, as a save of the file would.",
        arguments: &[("script", "a path from the folder of the config; the script as it is without it")],
        results: "`{ ok = true, from =, generation = }`, or `{ ok = false, error = }`, with the old generation going on.",
        errors: &[],
        cost: "Loads the script.",
        example: r#"test.case("a reload keeps everybody", function()
  local app = test.app("chat")
  local ann = app:connect("/chat/lobby?name=ann")
  test.equal(app:reload().generation, 2)
  test.equal(ann.closed, nil)
end)"#,
    },
    Entry {
        name: "app:request",
        signature: "(request: TestRequest) -> HttpResponse",
        does: "Sends a plain HTTP request to the app's path; `on_request` answers, or the host in its place.",
        arguments: &[
            ("request.path", "path and query"),
            ("request.method", "`GET` without it"),
            ("request.headers", "by their names"),
            ("request.body", "a string"),
        ],
        results: "`{ status =, headers =, body = }`, the headers in lower case.",
        errors: &["raises if `path` is missing, or a field is unknown"],
        cost: "Runs `on_request`.",
        example: r#"test.case("a script without on_request answers 426", function()
  test.equal(test.app("chat"):request({ path = "/chat/lobby" }).status, 426)
end)"#,
    },
    Entry {
        name: "app:log",
        signature: "() -> { LogLine }",
        does: "What the relay and its scripts have logged in this case so far, errors of callbacks included.",
        arguments: &[],
        results: "A list of `{ level =, message = }`, the oldest first; `level` is `\"error\"`, `\"warn\"`, `\"info\"`, \
            `\"debug\"` or `\"trace\"`.",
        errors: &[],
        cost: "Reads all lines.",
        example: r#"test.case("a load is logged as no error", function()
  local app = test.app("chat")
  for _, line in app:log() do assert(line.level ~= "error", line.message) end
end)"#,
    },
    Entry {
        name: "peer:send",
        signature: "(data: string, binary: boolean?) -> ()",
        does: "Sends one message, and returns when all that it causes has happened.",
        arguments: &[("data", "text in UTF-8, or any bytes if `binary`"), ("binary", "false without it")],
        results: "",
        errors: &["raises for a text that is not UTF-8", "raises if the peer was refused"],
        cost: "Runs the callback.",
        example: r#"test.case("bytes pass unchanged", function()
  local app = test.app("chat")
  local ann, bob = app:connect("/chat/lobby?name=ann"), app:connect("/chat/lobby?name=bob")
  ann:send("\0\255", true)
  local data, binary = bob:receive()
  assert(data == "\0\255" and binary)
end)"#,
    },
    Entry {
        name: "peer:send_json",
        signature: "(value: any) -> ()",
        does: "The same with a value as JSON.",
        arguments: &[("value", "what `relay.json.encode` takes")],
        results: "",
        errors: &["raises if it cannot be JSON"],
        cost: "Runs the callback.",
        example: r#"test.case("json goes both ways", function()
  local app = test.app("chat")
  local ann, bob = app:connect("/chat/lobby?name=ann"), app:connect("/chat/lobby?name=bob")
  ann:send_json({ type = "wave" })
  test.equal(bob:receive_json(), { type = "wave" })
end)"#,
    },
    Entry {
        name: "peer:receive",
        signature: "() -> (string?, boolean?)",
        does: "Takes the oldest message that the peer has received and not taken yet. It does not wait: let time pass \
            with `app:advance` if something comes later.",
        arguments: &[],
        results: "The message and whether it is binary; nil if there is none.",
        errors: &["raises if the peer was refused"],
        cost: "Cheap.",
        example: r#"test.case("nothing has come", function()
  test.equal(test.app("chat"):connect("/chat/lobby?name=ann"):receive(), nil)
end)"#,
    },
    Entry {
        name: "peer:receive_json",
        signature: "() -> any",
        does: "The same, decoded.",
        arguments: &[],
        results: "The value; nil if there is no message.",
        errors: &["raises if it is no JSON"],
        cost: "Cheap.",
        example: r#"test.case("no message is no value", function()
  test.equal(test.app("chat"):connect("/chat/lobby?name=ann"):receive_json(), nil)
end)"#,
    },
    Entry {
        name: "peer:close",
        signature: "(code: number?, reason: string?) -> ()",
        does: "Sends a close frame, behind everything that was sent.",
        arguments: &[("code", "1000 without it"), ("reason", "empty without it")],
        results: "",
        errors: &["raises if the peer was refused"],
        cost: "Runs `on_close`.",
        example: r#"test.case("a peer leaves", function()
  local ann = test.app("chat"):connect("/chat/lobby?name=ann")
  ann:close(4000, "bye")
end)"#,
    },
    Entry {
        name: "peer:drop",
        signature: "() -> ()",
        does: "Vanishes without a close frame, as a phone in a tunnel does: `on_close` gets 1006.",
        arguments: &[],
        results: "",
        errors: &["raises if the peer was refused"],
        cost: "Runs `on_close`.",
        example: r#"test.case("a peer vanishes", function()
  test.app("chat"):connect("/chat/lobby?name=ann"):drop()
end)"#,
    },
    Entry {
        name: "peer:can",
        signature: "(action: string, resource: string) -> (boolean, string)",
        does: "What the lists of its identity say, as `conn:can` would.",
        arguments: &[("action", "such as `join`"), ("resource", "a name, no pattern")],
        results: "Whether it may, and what decided.",
        errors: &["raises if the peer was refused"],
        cost: "Cheap.",
        example: r#"test.case("no lists, no bounds", function()
  test.equal({ test.app("chat"):connect("/chat/a?name=ann"):can("join", "x") }, { true, "no_lists" })
end)"#,
    },
    Entry {
        name: "peer:rooms",
        signature: "() -> { string }",
        does: "The rooms that its connection is in, in the order of joining.",
        arguments: &[],
        results: "A list of names.",
        errors: &["raises if the peer was refused"],
        cost: "Cheap.",
        example: r#"test.case("who connects is in the room", function()
  test.equal(test.app("chat"):connect("/chat/a?name=ann"):rooms(), { "room.a" })
end)"#,
    },
    Entry {
        name: "peer.refused",
        signature: "PeerRefused?",
        does: "nil if the peer was let in; else the HTTP status, or the code of a close right behind the upgrade, and \
            the reason.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap.",
        example: r#"test.case("there is no such path", function()
  test.equal(test.app("chat"):connect("/elsewhere").refused.status, 404)
end)"#,
    },
    Entry {
        name: "peer.closed",
        signature: "PeerClosed?",
        does: "nil while it is open; then the code and the reason of the close frame that the relay has sent, also in answer to one \
            of the peer's; 1006 after `peer:drop`.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap.",
        example: r#"test.case("it stays open", function()
  test.equal(test.app("chat"):connect("/chat/a?name=ann").closed, nil)
end)"#,
    },
    Entry {
        name: "peer.id",
        signature: "string?",
        does: "The id that scripts know its connection by; nil if it was refused.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap.",
        example: r#"test.case("ids are unique", function()
  local app = test.app("chat")
  assert(app:connect("/chat/a?name=ann").id ~= app:connect("/chat/a?name=bob").id)
end)"#,
    },
    Entry {
        name: "peer.subprotocol",
        signature: "string?",
        does: "The subprotocol that was agreed on, or nil.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap.",
        example: r#"test.case("none was offered", function()
  test.equal(test.app("chat"):connect("/chat/a?name=ann").subprotocol, nil)
end)"#,
    },
];
