//! The callbacks of a script, and what they are given: `request` and `err`.

use super::{Entry, Type};

pub const TYPES: &[Type] = &[
    Type { name: "Upgrade", means: "{ subprotocol: string?, headers: { [string]: string | number }? }" },
    Type { name: "Refusal", means: "{ __type: \"refusal\" }" },
    Type {
        name: "Response",
        means: "string | { status: number?, headers: { [string]: string | number }?, body: string? }",
    },
    Type { name: "Previous", means: "{ generation: number, version: number }" },
    Type { name: "EventSource", means: "{ app: string, instance: number }" },
    Type { name: "Err", means: "{ message: string, traceback: string, callback: string }" },
];

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "app.authenticate",
        signature: "(request: Request) -> (Identity | boolean | Refusal | nil, Upgrade | string | nil)",
        does: "Decides who may come in, before the upgrade: once a handshake is well-formed, its origin allowed \
            and the limits not reached. Without it everybody is let in as anonymous, and the relay warns at the \
            start. It does not run for plain HTTP requests.",
        arguments: &[("request", "The handshake: a read-only table, without `body`.")],
        results: "An identity (a table of plain data with a string `id`, or just that string): it comes in, and \
            `conn.user` shows it; `expires_at`, `allow` and `deny` as in `conn:identify`. `true`: it comes in, \
            anonymous. `relay.refuse(…)`: it is refused in that way. `nil` or `false`, and a string why: refused \
            with 401. With those that come in, a second value `{ subprotocol =, headers = }` picks the subprotocol \
            (one of `request.subprotocols`) and adds headers to the answer.",
        errors: &[
            "if it raises, the handshake is refused with 500; that is logged and goes to `on_error`, with nil for \
                the conn",
            "if it returns anything else, such as an identity with no `id` or an unknown field in the second \
                value, the same",
            "a subprotocol that the peer did not offer, or a header that cannot be sent, is answered with 500 and \
                logged; headers that are the relay's own to set are left out, with a warning",
        ],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.authenticate_timeout` (5 s) with its waits; then the answer is 503.",
        example: r#"local app = {}

function app.authenticate(request)
  local token = request.bearer or request.query.token
  if not token then return true end -- anonymous
  local claims, why = relay.jwt.verify(token, { key = relay.config.secret, algorithms = { "HS256" } })
  if not claims then return relay.refuse(4401, why) end
  local identity = { id = claims.sub, allow = { "join room.>" }, expires_at = claims.exp }
  return identity, { headers = { ["x-hello"] = claims.sub } }
end

return app"#,
    },
    Entry {
        name: "app.on_open",
        signature: "(conn: Conn) -> ()",
        does: "The upgrade is done, and nothing that the peer has sent has been handled yet; what it sends waits \
            until this has ended.",
        arguments: &[("conn", "The connection.")],
        results: "",
        errors: &["if it raises, the connection is closed with 1011; that is logged and goes to `on_error`"],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes.",
        example: r#"local app = {}

function app.on_open(conn)
  conn.state.room = "room." .. relay.token(conn.params.room or "lobby")
  assert(conn:join(conn.state.room))
  conn:send_json({ type = "hello", id = conn.id })
end

return app"#,
    },
    Entry {
        name: "app.on_message",
        signature: "(conn: Conn, data: string, binary: boolean) -> ()",
        does: "One whole message came. Those of one connection are handled one after another, in the order in \
            which they came, each by exactly one generation; while this waits, other connections go on. None is \
            handled after `conn:close`.",
        arguments: &[
            ("conn", "The connection."),
            (
                "data",
                "The message; at most `limits.message` (1 MiB), beyond which the connection is closed with 1009. A \
                    text message is valid UTF-8.",
            ),
            ("binary", "`true` for a binary message, `false` for a text message."),
        ],
        results: "",
        errors: &[
            "if it raises, that is logged and goes to `on_error`, and the connection stays; the tenth error of one \
                connection within a minute (`limits.script_errors`) closes it with 1011",
        ],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes. While it waits, up to `limits.inbox_messages` (64) or `limits.inbox` (1 MiB) of later \
            messages are kept; then the connection is not read.",
        example: r#"local app = {}

function app.on_open(conn)
  conn:join("lobby")
end

function app.on_message(conn, data, binary)
  conn:publish("lobby", data, { binary = binary })
end

return app"#,
    },
    Entry {
        name: "app.on_close",
        signature: "(conn: Conn, code: number, reason: string) -> ()",
        does: "The connection has ended: exactly once for each one that `on_open` was due for, whatever ended it, \
            and after its messages that had come in whole (none of them after `conn:close`). `conn:rooms()` still \
            tells its rooms and `conn:publish` works; `conn:send` returns `false, \"closed\"`. It leaves its rooms \
            when this has ended.",
        arguments: &[
            ("conn", "The connection; inert once this has ended."),
            (
                "code",
                "The code of the first close frame, sent or received: 1005 if it had none, 1006 if there was no \
                    close frame.",
            ),
            ("reason", "The reason in that frame; never nil, `\"\"` if there was none."),
        ],
        results: "",
        errors: &[
            "if it raises, that is logged and goes to `on_error`, which is then the last callback of the connection",
        ],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes. It does not run if the process is killed.",
        example: r#"local app = {}

function app.on_open(conn)
  conn:join("lobby")
end

function app.on_close(conn, code, reason)
  for _, room in conn:rooms() do
    conn:publish_json(room, { type = "left", id = conn.id, code = code })
  end
end

return app"#,
    },
    Entry {
        name: "app.on_error",
        signature: "(conn: Conn?, err: Err) -> ()",
        does: "A callback, a timer or a spawned function raised, or ran out of its budget; or `authenticate` or \
            `on_request` returned what it may not. The relay has logged it already. For an error of a connection's \
            callback it comes before everything else that waits for that connection.",
        arguments: &[
            (
                "conn",
                "The connection whose callback it was; nil outside of one, and for `migrate_conn`. After an error \
                    in `on_open` or the tenth within a minute it is closed already: sending returns `false, \
                    \"closed\"`.",
            ),
            ("err", "What went wrong: `err.message`, `err.traceback`, `err.callback`."),
        ],
        results: "",
        errors: &["if it raises, that is only logged: it is not called again for it"],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes.",
        example: r#"local app = {}

function app.on_message(conn, data)
  error("it cannot")
end

function app.on_error(conn, err)
  relay.log.warn("failed", { callback = err.callback })
  if conn then conn:send_json({ type = "error", during = err.callback }) end
end

return app"#,
    },
    Entry {
        name: "app.on_request",
        signature: "(request: Request) -> Response",
        does: "A plain HTTP request, of any method, on the app's path. `authenticate` does not run for it, so \
            anybody may send one (pages of other origins excepted): check who it is. Without it, the answer is a \
            static file if there is one at that path, else 426.",
        arguments: &[("request", "The request: a read-only table, with `body`.")],
        results: "A string: the body, with status 200. Or a table: `status` (a whole number from 200 to 599; \
            default 200), `headers` (for each name a string or a whole number) and `body` (a string; default \
            `\"\"`; not sent with 204 and 304). Without a `content-type` it is `text/plain; charset=utf-8`.",
        errors: &[
            "if it raises, the answer is 500; that is logged and goes to `on_error`, with nil for the conn",
            "if it returns anything else, nil or an unknown field among them, the same",
            "a header that cannot be sent is answered with 500 and logged; headers that are the relay's own to set \
                are left out, with a warning",
        ],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.request_timeout` (30 s) with its waits; then the answer is 503.",
        example: r#"local app = {}

function app.on_request(request)
  if request.method ~= "POST" then
    return { status = 405, headers = { allow = "POST" } }
  end
  if not relay.crypto.equals(request.bearer or "", relay.config.secret) then
    return { status = 401, body = "who are you?" }
  end
  relay.room("news"):publish(request.body or "")
  return { status = 204 }
end

return app"#,
    },
    Entry {
        name: "app.on_load",
        signature: "(previous: Previous?) -> ()",
        does: "A generation is being prepared, in each instance: for set-up that may fail. `relay.state` is nil, \
            and whatever sends, joins, waits or starts a timer raises. At a reload the generation before goes on \
            meanwhile, whatever comes of it.",
        arguments: &[
            ("previous", "nil at the start of the relay, else the generation before."),
            ("previous.generation", "Its number, from 1."),
            ("previous.version", "Its `app.version`."),
        ],
        results: "",
        errors: &["if it raises, the load is refused: the relay does not start, or the generation before goes on. It \
                does not go to `on_error`"],
        cost: "It may compute for `limits.load_cpu` (1 s); the script's own chunk has as much besides. Others are \
            served in between; it may not wait.",
        example: r#"local app = {}

function app.on_load(previous)
  assert(relay.config.secret, "settings.secret is missing")
end

function app.on_open(conn)
  conn:send("hello")
end

return app"#,
    },
    Entry {
        name: "app.on_start",
        signature: "(previous: Previous?) -> ()",
        does: "The generation has been taken over, in each instance. `relay.state` is in place, and no other \
            callback of this generation has run; the traffic begins when this has ended, or at its first wait. \
            Timers are started here.",
        arguments: &[
            ("previous", "nil at the start of the relay, else the generation before."),
            ("previous.generation", "Its number, from 1."),
            ("previous.version", "Its `app.version`."),
        ],
        results: "",
        errors: &["if it raises, that is logged and goes to `on_error`, with nil for the conn; the generation goes on"],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes.",
        example: r#"local app = {}

function app.on_start(previous)
  relay.state.starts = (relay.state.starts or 0) + 1
  relay.every(60, function()
    relay.log.info("still here", { connections = relay.count() })
  end)
end

return app"#,
    },
    Entry {
        name: "app.on_stop",
        signature: "(reason: string) -> ()",
        does: "The relay shuts down: in each instance, after every `on_close` there: its connections are gone. It \
            may wait.",
        arguments: &[("reason", "Why: `\"shutdown\"`.")],
        results: "",
        errors: &["if it raises, that is logged and goes to `on_error`, with nil for the conn"],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes. The whole shutdown has `server.shutdown`.",
        example: r#"local app = {}

function app.on_stop(reason)
  relay.log.info("stopping", { reason = reason })
end

return app"#,
    },
    Entry {
        name: "app.on_event",
        signature: "(name: string, data: any, source: EventSource) -> ()",
        does: "Somebody has called `relay.emit`: in every instance of this app, that of the caller too, or of all \
            apps.",
        arguments: &[
            ("name", "What the event is called; any app of the relay may use any name with `{ app = \"*\" }`."),
            ("data", "What it carries: plain data, a copy."),
            ("source.app", "The name of the app that emitted it."),
            ("source.instance", "The number of the instance in that app, from 1."),
        ],
        results: "",
        errors: &["if it raises, that is logged and goes to `on_error`, with nil for the conn"],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes. Each instance gets a copy of the data.",
        example: r#"local app = {}

function app.on_open(conn)
  relay.emit("opened", { id = conn.id })
end

function app.on_event(name, data, source)
  if name == "opened" and source.app == relay.app then
    relay.log.info("opened", { id = data.id, instance = source.instance })
  end
end

return app"#,
    },
    Entry {
        name: "app.on_alarm",
        signature: "(key: string, data: any) -> ()",
        does: "An alarm that `relay.alarm` has set is due: once, in the instance that set it, in whichever \
            generation runs then. One that is due during a reload comes after it.",
        arguments: &[
            ("key", "The key that it was set with; it is free again."),
            ("data", "What it was set with: plain data, a copy."),
        ],
        results: "",
        errors: &[
            "if it raises, that is logged and goes to `on_error`, with nil for the conn",
            "a script without it loses the alarms that are due, with one warning in the log for each generation",
        ],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes.",
        example: r#"local app = {}

function app.on_open(conn)
  relay.alarm("greet:" .. conn.id, 5, { id = conn.id })
end

function app.on_alarm(key, data)
  local conn = relay.conn(data.id)
  if conn then conn:send("five seconds have passed") end
end

return app"#,
    },
    Entry {
        name: "app.on_revoked",
        signature: "(conn: Conn, resource: string) -> ()",
        does: "A change of permissions (`conn:identify`, or `set_allow`, `set_deny`, `update_allow` of its user) \
            has taken a room or a pattern from the connection, which has left it already: once for each, rooms \
            first, in the order of joining. It comes behind what the connection had sent before, and not after \
            `on_close`.",
        arguments: &[
            ("conn", "The connection."),
            ("resource", "The name of the room, or the pattern, that it is no longer in."),
        ],
        results: "",
        errors: &[
            "if it raises, that is logged and goes to `on_error`, and the connection stays; the tenth error of one \
                connection within a minute (`limits.script_errors`) closes it with 1011",
        ],
        cost: "It may compute for `limits.callback_cpu` (100 ms) between two waits, and take \
            `limits.callback_timeout` (60 s) with its waits. Nobody else of the instance is served while it \
            computes.",
        example: r#"local app = {}

function app.on_open(conn)
  conn:identify({ id = "ann", allow = { "join room.>" } })
  conn:join("room.7")
  relay.user("ann"):set_allow({ "join lobby" })
end

function app.on_revoked(conn, resource)
  assert(resource == "room.7")
  conn:send_json({ type = "left", room = resource })
end

return app"#,
    },
    Entry {
        name: "app.migrate",
        signature: "(state: { [any]: any }, from: number) -> { [any]: any }",
        does: "Makes the `relay.state` of this version out of that of another one: at a reload to a script whose \
            `app.version` differs from the running one's. It runs twice in each instance, each time on a copy, \
            once to try it and once to switch, while the script counts as loading: it should only compute.",
        arguments: &[
            ("state", "A copy of the running generation's `relay.state`."),
            ("from", "That generation's `app.version`; it may be higher than this one's."),
        ],
        results: "The new state: a table.",
        errors: &["if it raises, waits, or returns no table, the reload is refused and nothing has changed"],
        cost: "It may compute for `limits.callback_cpu` (100 ms), and may not wait. When it runs to switch, no \
            callback of the app runs.",
        example: r#"local app = { version = 2 }

function app.migrate(state, from)
  state.scores = state.points or {}
  state.points = nil
  return state
end

function app.on_open(conn)
  conn:send("version 2")
end

return app"#,
    },
    Entry {
        name: "app.migrate_conn",
        signature: "(state: { [any]: any }, from: number) -> { [any]: any }",
        does: "Makes a `conn.state` of this version out of that of another one, once for each connection that has \
            one, when it is next used after a reload or soon after that. `from` may be any earlier version: a \
            state that has not been used since is brought up in one step.",
        arguments: &[("state", "A copy of the connection's state."), ("from", "The version that it is of.")],
        results: "The new state: a table.",
        errors: &[
            "if it raises, waits, or returns no table, that connection is closed with 1012, with an empty state in \
                `on_close`; that is logged and goes to `on_error` with nil for the conn, and `err.callback` is \
                `\"migrate_conn\"`, unless it was a running callback that looked at the state: then it is raised \
                there",
        ],
        cost: "It computes within `limits.callback_cpu` (100 ms), within that of the callback that looks at the \
            state if it is one that does; it may not wait. Connections that nothing uses are brought up 32 at a \
            time, with others served in between.",
        example: r#"local app = { version = 2 }

function app.migrate_conn(state, from)
  state.name = state.name or "guest"
  return state
end

function app.on_open(conn)
  conn.state.name = conn.query.name
end

return app"#,
    },
    Entry {
        name: "app.version",
        signature: "number?",
        does: "The version of the shape of this script's state: a whole number; 1 if it is left out. If it differs \
            from the running generation's, a reload calls `migrate` and `migrate_conn`.",
        arguments: &[],
        results: "",
        errors: &["the load is refused if it is not a whole number"],
        cost: "Read once, when the script is loaded.",
        example: r#"local app = { version = 3 }

function app.on_open(conn)
  conn:send("version 3")
end

return app"#,
    },
    Entry {
        name: "request.method",
        signature: "string",
        does: "The method, in capitals: `\"GET\"` for every handshake.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  assert(request.method == "GET")
  return true
end

return app"#,
    },
    Entry {
        name: "request.path",
        signature: "string",
        does: "The path, percent-encoded as it came, without the query.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  assert(request.path == "/app/lobby")
  return true
end

return app"#,
    },
    Entry {
        name: "request.params",
        signature: "{ [string]: string }",
        does: "What the app's path pattern found in the path, percent-decoded: with `path = \"/app/{room}\"`, \
            `params.room`. Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it: it is read-only"],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  local room = request.params.room or "lobby"
  if #relay.token(room) > 200 then return relay.refuse(1008, "the room's name is too long") end
  return true
end

return app"#,
    },
    Entry {
        name: "request.query",
        signature: "{ [string]: string }",
        does: "The query, decoded (`+` is a space); of a repeated key the first counts, and a key without `=` is \
            `\"\"`. Values are bytes and need not be UTF-8. Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it: it is read-only"],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  assert(request.query.name == "ann")
  return true
end

return app"#,
    },
    Entry {
        name: "request.raw_query",
        signature: "string",
        does: "The query as it came, with all repeated keys and without the question mark; `\"\"` if there is none.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  assert(request.raw_query == "name=ann")
  return true
end

return app"#,
    },
    Entry {
        name: "request.headers",
        signature: "{ [string]: string }",
        does: "The headers: names in lower case, repeated ones joined by `, ` (those of `cookie` by `; `). \
            Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it: it is read-only"],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  relay.log.debug("a handshake", { agent = request.headers["user-agent"] or "unknown" })
  return true
end

return app"#,
    },
    Entry {
        name: "request.cookies",
        signature: "{ [string]: string }",
        does: "The cookies by name, without the quotes around a value; of a repeated name the first counts. \
            Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it: it is read-only"],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  local session = request.cookies.session
  if session and #session > 100 then return nil, "bad session" end
  return true
end

return app"#,
    },
    Entry {
        name: "request.origin",
        signature: "string?",
        does: "The `Origin` header: the page that a browser opened this from, already checked against the app's \
            `origins`; nil for most programs, which send what they like.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  relay.log.debug("a handshake", { origin = request.origin or "no page" })
  return true
end

return app"#,
    },
    Entry {
        name: "request.bearer",
        signature: "string?",
        does: "The token of `Authorization: Bearer …`; without an `Authorization` header, the second of the names \
            that a page offers as subprotocols `bearer, <token>`. nil if there is neither, or if there are two \
            such headers.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  if request.bearer and not relay.crypto.equals(request.bearer, relay.config.secret) then
    return relay.refuse(4401, "bad token")
  end
  return true
end

return app"#,
    },
    Entry {
        name: "request.remote_addr",
        signature: "string",
        does: "The peer's address, without a port. Behind `server.trusted_proxies` it is the one that the proxy \
            tells; `\"unix\"` if it came by a unix socket and none is told.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  local calm, seconds = relay.rate("from:" .. request.remote_addr, { per_second = 1, burst = 20 })
  if not calm then return relay.refuse(429, "again in " .. math.ceil(seconds) .. " seconds") end
  return true
end

return app"#,
    },
    Entry {
        name: "request.subprotocols",
        signature: "{ string }",
        does: "The subprotocols that the peer offers, in its order, without a token behind `bearer`; empty if it \
            offers none. Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it: it is read-only"],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  if table.find(request.subprotocols, "v2.json") then
    return true, { subprotocol = "v2.json" }
  end
  return true
end

return app"#,
    },
    Entry {
        name: "request.tls",
        signature: "boolean",
        does: "Whether the peer came by TLS: the relay has none of its own, so it is what a proxy in \
            `server.trusted_proxies` tells.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  if not request.tls then relay.log.debug("not by TLS") end
  return true
end

return app"#,
    },
    Entry {
        name: "request.body",
        signature: "string?",
        does: "The body of a plain HTTP request, `\"\"` if it has none: bytes, at most `limits.request_body` (1 \
            MiB; beyond it the answer is 413). nil in `authenticate`.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "A copy of the body, made before the callback runs.",
        example: r#"local app = {}

function app.on_request(request)
  local fields = relay.json.decode(request.body or "")
  if type(fields) ~= "table" then return { status = 400, body = "JSON, please" } end
  return { headers = { ["content-type"] = "application/json" }, body = relay.json.encode({ ok = true }) }
end

return app"#,
    },
    Entry {
        name: "err.message",
        signature: "string",
        does: "What went wrong. It begins with `path:line:` where a line of the script is known; one about what \
            `authenticate` or `on_request` returned has none. Of an error that is a table it says only that.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.on_message(conn, data)
  error("no such command")
end

function app.on_error(conn, err)
  relay.log.info("it said", { message = err.message })
end

return app"#,
    },
    Entry {
        name: "err.traceback",
        signature: "string",
        does: "The script's own frames, one on each line, the innermost first, as in `scripts/chat.lua:14: in \
            function 'f'`; `\"\"` if none is known.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.on_message(conn, data)
  error("no such command")
end

function app.on_error(conn, err)
  relay.log.debug(err.traceback)
end

return app"#,
    },
    Entry {
        name: "err.callback",
        signature: "string",
        does: "What failed: the name of a callback without `app.`, such as `\"on_message\"` or `\"migrate_conn\"`, \
            or `\"relay.spawn\"`, `\"relay.after\"` or `\"relay.every\"`.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: a field of a table; never waits.",
        example: r#"local app = {}

function app.on_message(conn, data)
  error("no such command")
end

function app.on_error(conn, err)
  assert(err.callback == "on_message")
end

return app"#,
    },
];
