//! `relay` itself: finding and speaking to connections, waiting and timers, other servers, what is kept, where the
//! script runs, and its log; and the globals that the host gives.

use super::{Entry, Type};

pub const TYPES: &[Type] = &[
    Type { name: "EmitOptions", means: "{ app: string? }" },
    Type { name: "HttpOptions", means: "{ headers: { [string]: string | { string } }?, timeout: Duration? }" },
    Type {
        name: "HttpRequest",
        means: "{ url: string, method: string?, headers: { [string]: string | { string } }?, body: \
         string?, timeout: Duration? }",
    },
    Type { name: "HttpResponse", means: "{ status: number, headers: { [string]: string }, body: string }" },
    Type {
        name: "SocketOptions",
        means: "{ headers: { [string]: string | { string } }?, subprotocol: string | { string } | nil, \
         timeout: Duration? }",
    },
    Type { name: "StoreOptions", means: "{ ttl: Duration?, if_absent: boolean? }" },
    Type { name: "StoreTtlOptions", means: "{ ttl: Duration? }" },
    Type { name: "StoreListOptions", means: "{ prefix: string?, after: string?, limit: number? }" },
    Type { name: "StoreEntry", means: "{ key: string, value: any }" },
    Type { name: "RateOptions", means: "{ per_second: number, burst: number? }" },
];

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "relay.room",
        signature: "(name: string) -> Room",
        does: "A room by its name, over all instances of the app. It is a name with methods: the room \
         exists while it has members, whether or not anybody holds this value.",
        arguments: &[(
            "name",
            "1 to 255 bytes (`limits.room_name`) without control characters: tokens joined by dots, \
             such as `room.42.cursors`, none of them `*` or `>`",
        )],
        results: "The room. A name that no room can have is told by its methods: `publish` returns `false, \
         \"bad_name\"`, `count` is 0.",
        errors: &["raises if `name` is no string, or is empty"],
        cost: "cheap: makes a small value, asks nobody, never waits",
        example: r#"conn:join("lobby")
local room = relay.room("lobby")
assert(room.name == "lobby" and room:count() == 1)"#,
    },
    Entry {
        name: "relay.user",
        signature: "(id: string) -> User",
        does: "All connections of one user, over all instances of the app. It is an id with methods: \
         nobody of that name need be connected.",
        arguments: &[("id", "the `id` of the identity that `authenticate` returned")],
        results: "The user. Whether anybody is there, `user:online()` tells.",
        errors: &["raises if `id` is no string, or is empty: check an id that comes from a peer first"],
        cost: "cheap: makes a small value, asks nobody, never waits",
        example: r#"assert(not relay.user("bob"):online())"#,
    },
    Entry {
        name: "relay.conn",
        signature: "(id: string) -> Conn?",
        does: "Finds a connection of this app by its id. One that lives in another instance is a handle \
         that has `id`, `send`, `send_json` and `close` and nothing else.",
        arguments: &[("id", "what `conn.id` was")],
        results: "The conn: of this instance the same value that its callbacks get. nil if it has ended, or \
         if the text is no id of this app. Of another instance there is always a handle, also for a connection \
         that has ended; a `true` from its `send` means handed over, not queued.",
        errors: &["raises if `id` is no string"],
        cost: "cheap: one look-up in this instance, never waits",
        example: r#"assert(relay.conn(conn.id) == conn)
assert(relay.conn("nobody") == nil)"#,
    },
    Entry {
        name: "relay.connections",
        signature: "() -> { Conn }",
        does: "Lists the connections of this instance, in the order in which they were opened. Those of \
         other instances are not in it.",
        arguments: &[],
        results: "A new list.",
        errors: &[],
        cost: "builds a table as long as the answer; for a number take `relay.count`. Never waits",
        example: r#"for _, each in relay.connections() do
  each:send("hello, everybody in this instance")
end"#,
    },
    Entry {
        name: "relay.count",
        signature: "() -> number",
        does: "How many connections this app has, over all instances.",
        arguments: &[],
        results: "A whole number.",
        errors: &[],
        cost: "cheap: reads a counter that all instances share, never waits",
        example: r#"assert(relay.count() >= 1)"#,
    },
    Entry {
        name: "relay.broadcast",
        signature: "(data: string, options: PublishOptions?) -> (boolean, string?)",
        does: "Sends one message to every connection of this app, over all instances.",
        arguments: &[
            ("data", "the message; text must be UTF-8"),
            ("options", "a table, or just the boolean `binary`"),
            ("options.binary", "sends it as a binary message; `false` unless given"),
            ("options.except", "a conn of this instance, an id, or a list of them: those do not get it"),
        ],
        results: "`true` once it is queued here and handed to the other instances; `false, why` if nobody \
         gets it.",
        errors: &[
            "raises if `data` is no string, or is not UTF-8 and not binary",
            "raises for an unknown option, a `binary` that is no boolean, or an `except` that is no \
             conn, id or list of them",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`false, \"busy\"`: another worker has fallen behind by `limits.bus` (16 MiB)",
        ],
        cost: "encodes the message once and queues it for each connection; never waits. A connection \
         whose outbox is above `limits.outbox` (1 MiB) is closed with 1013",
        example: r#"assert(relay.broadcast("tea is ready"))
relay.broadcast("somebody else has come", { except = conn })"#,
    },
    Entry {
        name: "relay.broadcast_json",
        signature: "(value: any, options: PublishOptions?) -> (boolean, string?)",
        does: "`relay.broadcast` with `value` as JSON, encoded once.",
        arguments: &[("value", "what `relay.json.encode` takes"), ("options", "as for `relay.broadcast`")],
        results: "`true`, or `false, why`.",
        errors: &[
            "raises if `value` holds what JSON has no word for, such as a function",
            "raises for wrong options, as `relay.broadcast`",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`false, \"value.a is NaN, …\"` and the like: the data do not fit into JSON; the text \
             names the path",
            "`false, \"busy\"`: another worker has fallen behind by `limits.bus` (16 MiB)",
        ],
        cost: "encodes once (a few microseconds for a small message) and queues it for each connection; \
         never waits",
        example: r#"relay.broadcast_json({ type = "joined", id = conn.id }, { except = conn })"#,
    },
    Entry {
        name: "relay.emit",
        signature: "(name: string, data: Plain?, options: EmitOptions?) -> (boolean, string?)",
        does: "Calls `on_event(name, data, source)` in every instance of this app, this one too, or of \
         all apps. `source` is `{ app =, instance = }` of the one who emits. It never runs inside the call.",
        arguments: &[
            ("name", "a string that is not empty"),
            ("data", "plain data, or nil; each instance gets a copy"),
            ("options.app", "`\"*\"` for the instances of all apps; those of this app unless given"),
        ],
        results: "`true` once it is handed to the instances; `false, why` if none gets it.",
        errors: &[
            "raises if `name` is no string or is empty, or if `data` is not plain data (the error \
             names the path)",
            "raises for an unknown option, or an `app` that is neither `\"*\"` nor this app's own name",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`false, \"busy\"`: another worker has fallen behind by `limits.bus` (16 MiB)",
        ],
        cost: "copies `data` once, and once more in each instance; never waits",
        example: r#"local app = {}

function app.on_open(conn)
  assert(relay.emit("joined", { id = conn.id }))
end

function app.on_event(name, data, source)
  relay.log.info(name, { id = data.id, instance = source.instance })
end

return app"#,
    },
    Entry {
        name: "relay.refuse",
        signature: "(code: number, reason: string?) -> Refusal",
        does: "Makes a refusal for `authenticate` to return. 400 to 599 answers the handshake with that \
         HTTP status; 1008 or 3000 to 4999 completes the upgrade and closes at once, because a page in a \
         browser sees a close code and never an HTTP status.",
        arguments: &[
            ("code", "an HTTP status of 400 to 599, or a close code: 1008, or 3000 to 4999"),
            (
                "reason",
                "text for the peer; `\"\"` unless given. It is the body of the HTTP answer; of a close \
             frame's reason, 123 bytes are sent and the rest is cut off",
            ),
        ],
        results: "A value that only `authenticate` has a use for; elsewhere it does nothing.",
        errors: &["raises for any other code, and if `reason` is no string"],
        cost: "cheap: makes a small value, sends nothing by itself",
        example: r#"local app = {}

function app.authenticate(request)
  local name = request.query.name
  if not name or name == "" then
    return relay.refuse(4400, "say who you are: ?name=ann")
  end
  return { id = name }
end

function app.on_open(conn)
  conn:send("hello, " .. conn.user.id)
end

return app"#,
    },
    Entry {
        name: "relay.sleep",
        signature: "(seconds: Duration) -> ()",
        does: "Waits. The callback stops there and goes on afterwards; meanwhile other callbacks run, \
         though none of the same connection. Afterwards the connection may have closed.",
        arguments: &[(
            "seconds",
            "how long, in seconds or as in `\"250ms\"`; 0 lets others run first; at most a year \
             (366 days)",
        )],
        results: "",
        errors: &[
            "raises if `seconds` is no duration, is negative, or is more than a year",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
        ],
        cost: "waits; meanwhile nothing but the memory of the coroutine. Each stretch between two waits \
         has a CPU budget of its own (`limits.callback_cpu`, 100 ms)",
        example: r#"conn:send("one moment")
relay.sleep("20ms")
conn:send("here it is")"#,
    },
    Entry {
        name: "relay.after",
        signature: "(seconds: Duration, fn: () -> ()) -> Timer",
        does: "Calls `fn()` once, outside any callback; it may wait. The timer ends with its generation: \
         what is to outlive a reload is for `relay.alarm`. An error in `fn` goes to `on_error` with `conn` nil \
         and the callback `\"relay.after\"`.",
        arguments: &[
            ("seconds", "how long from now, in seconds or as in `\"5m\"`; 0 is soon; at most a year (366 days)"),
            ("fn", "a function without arguments"),
        ],
        results: "A timer with `:cancel()`.",
        errors: &[
            "raises if `seconds` is no duration, is negative, or is more than a year, or if `fn` is \
             no function",
            "raises if the instance has `limits.timers` (10,000) timers already",
            "raises while a script loads and in `on_load`; use `on_start`",
        ],
        cost: "cheap: starts a task, never waits; until then, the memory of the task and of `fn`",
        example: r#"relay.after("50ms", function()
  conn:send("still there?")
end)"#,
    },
    Entry {
        name: "relay.every",
        signature: "(seconds: Duration, fn: (elapsed: number) -> ()) -> Timer",
        does: "Calls `fn(elapsed)` again and again, the first time after `seconds`; it may wait. It never \
         overlaps itself, and skips ticks that it is late for. An error in `fn` goes to `on_error`, and the \
         timer goes on. It ends with its generation, so start it in `on_start`.",
        arguments: &[
            ("seconds", "the period, in seconds or as in `\"1m\"`; more than 0, at most a year (366 days)"),
            ("fn", "gets the seconds since its last call began; the first time, since the timer was started"),
        ],
        results: "A timer with `:cancel()`.",
        errors: &[
            "raises if `seconds` is no duration, is 0 or negative, or is more than a year, or if \
             `fn` is no function",
            "raises if the instance has `limits.timers` (10,000) timers already",
            "raises while a script loads and in `on_load`; use `on_start`",
        ],
        cost: "cheap: starts a task, never waits; then a callback for each tick",
        example: r#"local app = {}

function app.on_start()
  relay.every("1m", function(elapsed)
    relay.log.info("still here", { connections = relay.count(), seconds = elapsed })
  end)
end

return app"#,
    },
    Entry {
        name: "timer:cancel",
        signature: "() -> ()",
        does: "Ends a timer of `relay.after` or `relay.every`: `fn` is not called again. A call that runs \
         or waits at that moment goes on to its end. Cancelling again, or after a timer has fired for the last \
         time, does nothing.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "cheap: never waits; the timer no longer counts for `limits.timers`",
        example: r#"local timer = relay.after(30, function()
  conn:close(4000, "you said nothing")
end)
timer:cancel()"#,
    },
    Entry {
        name: "relay.spawn",
        signature: "(fn: () -> ()) -> ()",
        does: "Runs `fn()` beside the callback, which need not wait for it. It begins once the callback \
         has ended or waits, and has `limits.callback_timeout` (60 s) of its own. An error in it goes to \
         `on_error` with `conn` nil and the callback `\"relay.spawn\"`. It ends with its generation, within \
         `reload.drain` (10 s).",
        arguments: &[("fn", "a function without arguments; it may wait")],
        results: "",
        errors: &["raises if `fn` is no function", "raises while a script loads and in `on_load`; use `on_start`"],
        cost: "cheap: starts a task, never waits. While `fn` waits it counts for `limits.waiting` (10,000)",
        example: r#"relay.spawn(function()
  relay.sleep("20ms")
  conn:send("this came later")
end)
conn:send("this came first")"#,
    },
    Entry {
        name: "relay.alarm",
        signature: "(key: string, seconds: Duration?, data: Plain?) -> ()",
        does: "Calls `on_alarm(key, data)` once, in this instance and in whichever generation runs then: \
         a reload does not end it, and one that is due during a reload comes after it. The same key replaces \
         the alarm. A script without `on_alarm` loses those that are due, with a warning in the log.",
        arguments: &[
            ("key", "1 to 255 bytes; keys are this instance's own"),
            (
                "seconds",
                "how long from now, in seconds or as in `\"10m\"`, at most a year (366 days); nil \
             cancels the alarm of that key",
            ),
            ("data", "plain data of at most 64 KiB, copied; nil unless given"),
        ],
        results: "",
        errors: &[
            "raises if `key` is no string, is empty or longer than 255 bytes",
            "raises if `seconds` is no duration, is negative, or is more than a year",
            "raises if `data` is not plain data (the error names the path), or larger than 64 KiB",
            "raises if the instance has `limits.timers` (10,000) alarms already and none with this key",
            "raises while a script loads and in `on_load`; use `on_start`",
        ],
        cost: "cheap: copies `data`, never waits. It is on disk within milliseconds, and off it before `on_alarm` runs: a \
         stop or a crash keeps it, and one that came due meanwhile comes at the start",
        example: r#"local app = {}

function app.on_open(conn)
  relay.alarm("idle:" .. conn.id, "10m", { id = conn.id })
end

function app.on_close(conn)
  relay.alarm("idle:" .. conn.id, nil)
end

function app.on_alarm(key, data)
  local conn = relay.conn(data.id)
  if conn then
    conn:close(4000, "ten minutes are over")
  end
end

return app"#,
    },
    Entry {
        name: "relay.http.get",
        signature: "(url: string, options: HttpOptions?) -> (HttpResponse?, string?)",
        does: "Asks another server, and waits for the whole response. Only the hosts that \
         `app.http.allow` lists can be reached, by default none. Up to 3 redirects are followed, each checked \
         like the first URL; another scheme, host or port gets no `authorization`, `cookie` or \
         `proxy-authorization` header. No cookies are kept.",
        arguments: &[
            ("url", "begins with `http://` or `https://`, without a user name or a password in it"),
            (
                "options.headers",
                "for each name a string, or a list of strings. Those about how the message is sent \
             (`host`, `content-length`, `connection` and the like) are the relay's",
            ),
            (
                "options.timeout",
                "for all of it, redirects and body too, in seconds or as in `\"2s\"`; 5 seconds unless \
             given, at most `limits.callback_timeout` (60 s)",
            ),
        ],
        results: "`{ status =, headers =, body = }` whatever the status is: names of headers in lower case, \
         repeated ones joined by `, `. Or `nil, why`.",
        errors: &[
            "raises if `url` is no string, or for an unknown option",
            "raises for a header that is the relay's, has a bad name, a value that is no string, or \
             one with control characters",
            "raises if `timeout` is no duration, is 0, or is more than `limits.callback_timeout`",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"timeout\"`",
            "`nil, 'host \"…\" is not in app.http.allow'`, or `'scheme \"…\" is not allowed: only \
             http and https are'`",
            "`nil, 'host \"…\" cannot be resolved: …'`, or `'host \"…\" resolves to …, which is not \
             a public address: …'`: a listed name may not lead into a private network; list the address itself",
            "`nil, \"bad URL: …\"`",
            "`nil, \"redirected to …\"`: to where it may not go; `nil, \"more than 3 redirects\"`",
            "`nil, \"the body is larger than limits.http_body (… bytes)\"` (1 MiB)",
            "`nil` and the cause in the system's words, for a connection that failed",
        ],
        cost: "waits; meanwhile the memory of the coroutine and a socket. Up to 8 idle connections to one \
         host are kept for 30 seconds",
        example: r#"local response, why = relay.http.get("https://api.example.com/me", { timeout = 2 })
if response then
  relay.log.info("the API answers", { status = response.status })
else
  relay.log.warn("the API does not answer", { why = why })
end"#,
    },
    Entry {
        name: "relay.http.post",
        signature: "(url: string, body: string, options: HttpOptions?) -> (HttpResponse?, string?)",
        does: "Sends `body` to another server by POST, and waits for the whole response. Otherwise as \
         `relay.http.get`. A redirect with 301, 302 or 303 goes on as a GET without the body.",
        arguments: &[
            ("url", "begins with `http://` or `https://`"),
            ("body", "a string; nothing is added to it, so say what it is in the header `content-type`"),
            ("options.headers", "as for `relay.http.get`"),
            ("options.timeout", "as for `relay.http.get`; 5 seconds unless given"),
        ],
        results: "`{ status =, headers =, body = }`, or `nil, why`.",
        errors: &[
            "raises if `url` or `body` is no string, and for wrong options, as `relay.http.get`",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, why` as `relay.http.get`: `\"timeout\"`, `'host \"…\" is not in \
             app.http.allow'`, `\"the body is larger than limits.http_body (… bytes)\"` and the others",
        ],
        cost: "waits; meanwhile the memory of the coroutine, of `body` and a socket",
        example: r#"local body = relay.json.encode({ id = conn.id, event = "open" })
local response, why = relay.http.post("https://api.example.com/events", body, {
  headers = { ["content-type"] = "application/json" },
})
if not response then
  relay.log.warn("the event was not taken", { why = why })
end"#,
    },
    Entry {
        name: "relay.http.request",
        signature: "(request: HttpRequest) -> (HttpResponse?, string?)",
        does: "The general form of `relay.http.get` and `relay.http.post`: any method, and all of it in \
         one table.",
        arguments: &[
            ("request.url", "begins with `http://` or `https://`"),
            ("request.method", "in capitals, such as `\"PUT\"`; `\"GET\"` unless given; not `\"CONNECT\"`"),
            ("request.headers", "as for `relay.http.get`"),
            ("request.body", "a string; none unless given"),
            ("request.timeout", "as for `relay.http.get`; 5 seconds unless given"),
        ],
        results: "`{ status =, headers =, body = }`, or `nil, why`.",
        errors: &[
            "raises if `request` is no table or has an unknown field, if `url` or `body` is no \
             string, or if `method` is not letters in capitals",
            "raises for wrong `headers` and `timeout`, as `relay.http.get`",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, why` as `relay.http.get`: `\"timeout\"`, `'host \"…\" is not in \
             app.http.allow'`, `\"the body is larger than limits.http_body (… bytes)\"` and the others",
        ],
        cost: "waits; meanwhile the memory of the coroutine, of the body and a socket",
        example: r#"local response, why = relay.http.request({
  method = "DELETE",
  url = "https://api.example.com/sessions/7",
  headers = { authorization = "Bearer " .. relay.config.secret },
})
if not response then
  relay.log.warn("the session was not deleted", { why = why })
end"#,
    },
    Entry {
        name: "relay.ws.connect",
        signature: "(url: string, options: SocketOptions?) -> (Socket?, string?)",
        does: "Opens a WebSocket to another server, for bridges, and waits for its handshake. Only the \
         hosts that `app.http.allow` lists can be reached. The relay answers pings. The socket is closed when \
         the script no longer holds it, and with its generation; it is no plain data and cannot be kept in a \
         `state`.",
        arguments: &[
            ("url", "begins with `ws://` or `wss://`, without a user name or a password in it"),
            (
                "options.headers",
                "for each name a string, or a list of strings; those about how the message is sent are \
             the relay's",
            ),
            (
                "options.subprotocol",
                "a name or a list of them, the one that is liked best first; the server must then agree \
             on one",
            ),
            (
                "options.timeout",
                "for the handshake, in seconds or as in `\"2s\"`; 5 seconds unless given, at most \
             `limits.callback_timeout` (60 s)",
            ),
        ],
        results: "A socket, or `nil, why`.",
        errors: &[
            "raises if `url` is no string, for an unknown option, or for wrong `headers` or \
             `timeout`, as `relay.http.get`",
            "raises if a `subprotocol` is not a name as HTTP has them, such as `\"chat.v1\"`",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"timeout\"`",
            "`nil, 'host \"…\" is not in app.http.allow'`, or `'scheme \"…\" is not allowed: only \
             ws and wss are'`",
            "`nil, 'host \"…\" cannot be resolved: …'`, or `'host \"…\" resolves to …, which is not \
             a public address: …'`",
            "`nil, \"bad URL: …\"`",
            "`nil, \"as many sockets are open as limits.ws_sockets allows (…)\"` (1,000 in one \
             instance)",
            "`nil, \"the server answered 403\"` with its status, if it refuses the upgrade",
            "`nil` and the cause in the system's words, for a connection that failed",
        ],
        cost: "waits; an open socket has buffers of 16 KiB besides its queues. Messages that nobody \
         receives are kept up to `limits.inbox` (1 MiB) or `limits.inbox_messages` (64), then the other server \
         is not read",
        example: r#"local socket, why = relay.ws.connect("wss://api.example.com/feed", { timeout = 2 })
if not socket then
  relay.log.warn("no upstream", { why = why })
  return
end
socket:send("hello")"#,
    },
    Entry {
        name: "socket.subprotocol",
        signature: "string?",
        does: "The subprotocol that the server of a `relay.ws.connect` agreed on; nil if there is none.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "cheap: a field",
        example: r#"local socket = relay.ws.connect("wss://api.example.com/feed", {
  subprotocol = { "feed.v2", "feed.v1" },
})
if socket then
  relay.log.info("connected", { speaks = socket.subprotocol })
end"#,
    },
    Entry {
        name: "socket:send",
        signature: "(data: string, binary: boolean?) -> (boolean, string?)",
        does: "Queues one message to the other server. It waits only while what is queued already leaves \
         no room in `limits.outbox` (1 MiB).",
        arguments: &[
            (
                "data",
                "the message; text must be UTF-8. One that is larger than `limits.outbox` goes when \
             nothing else is queued",
            ),
            ("binary", "sends it as a binary message; `false` unless given"),
        ],
        results: "`true` once it is queued, or `false, why`.",
        errors: &[
            "raises if `data` is no string, or is not UTF-8 and not binary, or if `binary` is no \
             boolean",
            "raises if it is not called with a colon on what `relay.ws.connect` gave",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`false, \"closed\"`: the socket has been closed, or its connection has ended",
        ],
        cost: "copies `data`; waits only when the queue is full",
        example: r#"local socket = relay.ws.connect("wss://api.example.com/feed")
if socket then
  local sent, why = socket:send("hello")
  relay.log.info("said hello", { sent = sent, why = why })
end"#,
    },
    Entry {
        name: "socket:receive",
        signature: "(timeout: Duration?) -> (string?, boolean | string)",
        does: "Waits for the next message of the other server. Messages come in order, and those that \
         came before the connection ended are still received.",
        arguments: &[(
            "timeout",
            "in seconds or as in `\"30s\"`; without it, for as long as the callback may run \
             (`limits.callback_timeout`, 60 s). A function that reads for ever receives once with a timeout, \
             and spawns itself again",
        )],
        results: "`data, binary`: the message and whether it is binary. Or `nil, why`.",
        errors: &[
            "raises if `timeout` is no duration, or is negative",
            "raises if it is not called with a colon on what `relay.ws.connect` gave",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"timeout\"`: the socket is still open",
            "`nil, \"closed\"`: it has been closed, by either side",
            "`nil, \"a message is larger than limits.message (… bytes)\"` (1 MiB): that has ended \
             the connection",
            "`nil` and the cause in the system's words, if the connection broke",
        ],
        cost: "waits; meanwhile the memory of the coroutine",
        example: r#"local socket = relay.ws.connect("wss://api.example.com/feed")
if socket then
  local data, binary = socket:receive("1s")
  if data then
    conn:send(data, binary == true)
  end
end"#,
    },
    Entry {
        name: "socket:close",
        signature: "() -> ()",
        does: "Sends what is queued, then closes with 1000. What has not been received is dropped, and \
         nothing more is received. Closing again does nothing.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "cheap: never waits for the other server",
        example: r#"local socket = relay.ws.connect("wss://api.example.com/feed")
if socket then
  socket:send("bye")
  socket:close()
end"#,
    },
    Entry {
        name: "relay.store.get",
        signature: "(key: string) -> (any, string?)",
        does: "Reads what is kept on disk under a key of this app. All its instances see the same, and it \
         outlives a restart.",
        arguments: &[("key", "1 to 1,024 bytes")],
        results: "A copy of the value; nil if there is none, or if its `ttl` has passed; `nil, why` if it \
         could not be read.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"busy\"`: `limits.store_queue` (10,000) operations wait already",
            "`nil, 'the value of \"…\" cannot be read: …'`, `\"the store is damaged: …\"` or `\"the \
             store cannot be used: …\"`: the disk; the relay's log says so too",
        ],
        cost: "waits for the store's reading thread; one look-up in the file",
        example: r#"assert(relay.store.set("greeting", { text = "hello" }))
local greeting, why = relay.store.get("greeting")
assert(greeting and greeting.text == "hello", why)
assert(relay.store.get("nothing") == nil)"#,
    },
    Entry {
        name: "relay.store.set",
        signature: "(key: string, value: Plain, options: StoreOptions?) -> (boolean, string?)",
        does: "Keeps plain data on disk under a key. A success means that it is on disk.",
        arguments: &[
            ("key", "1 to 1,024 bytes"),
            ("value", "plain data, not nil; at most `limits.store_value` (1 MiB) once encoded"),
            (
                "options.ttl",
                "how long until the key is gone, in seconds or as in `\"7d\"`, at least a millisecond; \
             without it the key stays, whatever it had before",
            ),
            ("options.if_absent", "sets it only if the key is not there; `false` unless given"),
        ],
        results: "`true` if it was set; `false` alone if `if_absent` was given and the key is there; else \
         `false, why`.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes",
            "raises if `value` is nil or not plain data (the error names the path), for an unknown \
             option, or a wrong `ttl` or `if_absent`",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`false, \"limits.store_value\"`: the value is too large",
            "`false, \"busy\"`: `limits.store_queue` (10,000) operations wait already",
            "`false, \"the store is full: its disk, or store.size\"`",
            "`false, \"the store is read-only\"`, `\"the store is damaged: …\"` or `\"the store \
             cannot be used: …\"`: the disk; the relay's log says so too",
        ],
        cost: "copies `value` and waits for the disk. Writes of all apps that come within 2 ms of one \
         another share one transaction",
        example: r#"assert(relay.store.set("session.7", { user = "ann" }, { ttl = "7d" }))
local set, why = relay.store.set("session.7", { user = "bob" }, { if_absent = true })
assert(set == false and why == nil)"#,
    },
    Entry {
        name: "relay.store.delete",
        signature: "(key: string) -> (boolean, string?)",
        does: "Removes a key from the disk.",
        arguments: &[("key", "1 to 1,024 bytes")],
        results: "`true` if it was there; `false` alone if it was not; else `false, why`.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`false, \"busy\"`: `limits.store_queue` (10,000) operations wait already",
            "`false, \"the store is read-only\"`, `\"the store is full: its disk, or store.size\"`, \
             `\"the store is damaged: …\"` or `\"the store cannot be used: …\"`: the disk",
        ],
        cost: "waits for the disk, as `relay.store.set`",
        example: r#"assert(relay.store.set("draft", "dear all"))
assert(relay.store.delete("draft"))
assert(relay.store.delete("draft") == false)"#,
    },
    Entry {
        name: "relay.store.list",
        signature: "(options: StoreListOptions?) -> ({ StoreEntry }?, string?)",
        does: "Lists keys and their values in byte order of the keys. For more than one page, give the \
         last key as `after`.",
        arguments: &[
            ("options.prefix", "only keys that begin with it; all unless given"),
            ("options.after", "only keys that come behind it; from the first one unless given"),
            ("options.limit", "how many at most, 1 to 1,000; 100 unless given"),
        ],
        results: "A list of `{ key =, value = }`, empty if there are none; or `nil, why`.",
        errors: &[
            "raises for an unknown option, a `prefix` or `after` that is no string, or a `limit` \
             that is no whole number from 1 to 1,000",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"limits.store_page\"`: the values have more than 16 MiB together; ask for fewer \
             at a time",
            "`nil, \"busy\"`: `limits.store_queue` (10,000) operations wait already",
            "`nil, 'the value of \"…\" cannot be read: …'`, `\"the store is damaged: …\"` or `\"the \
             store cannot be used: …\"`: the disk",
        ],
        cost: "waits for the store's reading thread; reads and copies every value of the page",
        example: r#"assert(relay.store.set("user.ann", { age = 36 }))
assert(relay.store.set("user.bob", { age = 41 }))
local after
repeat
  local page = assert(relay.store.list({ prefix = "user.", after = after, limit = 1 }))
  for _, entry in page do
    relay.log.info(entry.key, entry.value)
    after = entry.key
  end
until #page == 0
assert(after == "user.bob")"#,
    },
    Entry {
        name: "relay.store.incr",
        signature: "(key: string, n: number?, options: StoreTtlOptions?) -> (number?, string?)",
        does: "Adds to a number on disk, in one step whatever other instances do. What is not there \
         begins at 0.",
        arguments: &[
            ("key", "1 to 1,024 bytes"),
            ("n", "what is added, 1 unless given; it may be negative or have decimals"),
            (
                "options.ttl",
                "how long from now until the key is gone, in seconds or as in `\"7d\"`; without it, the \
             time that the key has goes on",
            ),
        ],
        results: "The new number, or `nil, why`.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes, if `n` is no finite \
             number, or for an unknown option or a wrong `ttl`",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"not_a_number\"`: something else is kept there, and stays",
            "`nil, \"busy\"`: `limits.store_queue` (10,000) operations wait already",
            "`nil, \"the store is full: its disk, or store.size\"`, `\"the store is read-only\"`, \
             `'the value of \"…\" cannot be read: …'`, `\"the store is damaged: …\"` or `\"the store cannot be \
             used: …\"`: the disk",
        ],
        cost: "waits for the disk, as `relay.store.set`",
        example: r#"local visits, why = relay.store.incr("visits." .. relay.token(conn.query.name or ""))
assert(visits and visits >= 1, why)"#,
    },
    Entry {
        name: "relay.store.update",
        signature: "(key: string, fn: (value: any) -> any, options: StoreTtlOptions?) -> (any, string?)",
        does: "Reads, computes and writes as one step, whatever other instances do: calls `fn(value)` and \
         keeps what it returns. Updates of one key run one after another, those of several keys side by side. \
         `fn` may run again with a newer value, so it should only compute.",
        arguments: &[
            ("key", "1 to 1,024 bytes"),
            (
                "fn",
                "gets a copy of the value, nil if there is none; returns the new value, plain data; nil \
             deletes the key. It may not wait",
            ),
            (
                "options.ttl",
                "how long from now until the key is gone, in seconds or as in `\"7d\"`; without it, the \
             time that the key has goes on",
            ),
        ],
        results: "The new value, nil if the key was deleted; or `nil, why`.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes, if `fn` is no \
             function, or for an unknown option or a wrong `ttl`",
            "raises what `fn` raises, as text, and if `fn` waits or returns what is not plain data; \
             then nothing is stored",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"limits.store_value\"`: the new value is larger than 1 MiB",
            "`nil, \"busy\"`: `limits.store_queue` (10,000) operations wait already",
            "`nil, \"the store is full: its disk, or store.size\"`, `\"the store is read-only\"`, \
             `'the value of \"…\" cannot be read: …'`, `\"the store is damaged: …\"` or `\"the store cannot be \
             used: …\"`: the disk",
        ],
        cost: "waits twice: for its turn at the key, and for the disk",
        example: r#"local score = 7
local best, why = relay.store.update("best", function(best)
  return math.max(best or 0, score)
end)
assert(best and best >= 7, why)"#,
    },
    Entry {
        name: "relay.shared.get",
        signature: "(key: string) -> any",
        does: "Reads what is kept in memory under a key, for all instances of the app, or of all apps \
         whose setting `shared` names the same memory. It ends with the relay, not with a reload.",
        arguments: &[("key", "1 to 1,024 bytes")],
        results: "A copy of the value; nil if there is none, or if its `ttl` has passed.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes",
            "raises while a script loads and in `on_load`; use `on_start`",
        ],
        cost: "never waits; copies the value",
        example: r#"relay.shared.set("motd", { text = "hello" })
assert(relay.shared.get("motd").text == "hello")"#,
    },
    Entry {
        name: "relay.shared.set",
        signature: "(key: string, value: Plain, options: StoreOptions?) -> (boolean, string?)",
        does: "Keeps a copy of plain data in memory under a key. What a script changes in its own table \
         afterwards changes nothing for others.",
        arguments: &[
            ("key", "1 to 1,024 bytes"),
            ("value", "plain data, not nil"),
            (
                "options.ttl",
                "how long until the key is gone, in seconds or as in `\"5m\"`, at least a millisecond; \
             without it the key stays, whatever it had before",
            ),
            ("options.if_absent", "sets it only if the key is not there; `false` unless given"),
        ],
        results: "`true` if it was set; `false` alone if `if_absent` was given and the key is there; else \
         `false, why`.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes",
            "raises if `value` is nil or not plain data (the error names the path), for an unknown \
             option, or a wrong `ttl` or `if_absent`",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`false, \"limits.shared_memory\"`: it would be more than 64 MiB together",
        ],
        cost: "never waits; copies the value",
        example: r#"local mine = relay.shared.set("leader", conn.id, { ttl = "30s", if_absent = true })
if mine then
  conn:send("you lead")
end"#,
    },
    Entry {
        name: "relay.shared.delete",
        signature: "(key: string) -> boolean",
        does: "Removes a key from the shared memory.",
        arguments: &[("key", "1 to 1,024 bytes")],
        results: "Whether it was there.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes",
            "raises while a script loads and in `on_load`; use `on_start`",
        ],
        cost: "cheap: never waits",
        example: r#"relay.shared.set("draft", "dear all")
assert(relay.shared.delete("draft") == true)
assert(relay.shared.delete("draft") == false)"#,
    },
    Entry {
        name: "relay.shared.list",
        signature: "(options: StoreListOptions?) -> { StoreEntry }",
        does: "Lists keys and their values in byte order of the keys. For more than one page, give the \
         last key as `after`.",
        arguments: &[
            ("options.prefix", "only keys that begin with it; all unless given"),
            ("options.after", "only keys that come behind it; from the first one unless given"),
            ("options.limit", "how many at most, 1 to 1,000; 100 unless given"),
        ],
        results: "A list of `{ key =, value = }`, empty if there are none.",
        errors: &[
            "raises for an unknown option, a `prefix` or `after` that is no string, or a `limit` \
             that is no whole number from 1 to 1,000",
            "raises while a script loads and in `on_load`; use `on_start`",
        ],
        cost: "never waits; copies every value of the page",
        example: r#"relay.shared.set("score.ann", 3)
for _, entry in relay.shared.list({ prefix = "score." }) do
  relay.log.info(entry.key, { score = entry.value })
end"#,
    },
    Entry {
        name: "relay.shared.incr",
        signature: "(key: string, n: number?, options: StoreTtlOptions?) -> (number?, string?)",
        does: "Adds to a number in the shared memory, in one step whatever other instances do. What is \
         not there begins at 0.",
        arguments: &[
            ("key", "1 to 1,024 bytes"),
            ("n", "what is added, 1 unless given; it may be negative or have decimals"),
            (
                "options.ttl",
                "how long from now until the key is gone, in seconds or as in `\"5m\"`; without it, the \
             time that the key has goes on",
            ),
        ],
        results: "The new number, or `nil, why`.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes, if `n` is no finite \
             number, or for an unknown option or a wrong `ttl`",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"not_a_number\"`: something else is kept there, and stays",
            "`nil, \"limits.shared_memory\"`: it would be more than 64 MiB together",
        ],
        cost: "cheap: never waits",
        example: r#"local open = relay.shared.incr("open")
assert(open and open >= 1)"#,
    },
    Entry {
        name: "relay.shared.update",
        signature: "(key: string, fn: (value: any) -> any, options: StoreTtlOptions?) -> (any, string?)",
        does: "Reads, computes and writes as one step: calls `fn(value)` at once and keeps what it \
         returns. If another instance has changed the key meanwhile, `fn` runs again with the newer value, so \
         it should only compute.",
        arguments: &[
            ("key", "1 to 1,024 bytes"),
            (
                "fn",
                "gets a copy of the value, nil if there is none; returns the new value, plain data; nil \
             deletes the key. It may not wait",
            ),
            (
                "options.ttl",
                "how long from now until the key is gone, in seconds or as in `\"5m\"`; without it, the \
             time that the key has goes on",
            ),
        ],
        results: "What `fn` returned, nil if the key was deleted; or `nil, why`.",
        errors: &[
            "raises if `key` is no string, is empty or longer than 1,024 bytes, if `fn` is no \
             function, or for an unknown option or a wrong `ttl`",
            "raises what `fn` raises, and if `fn` waits or returns what is not plain data; then \
             nothing is set",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"limits.shared_memory\"`: it would be more than 64 MiB together",
        ],
        cost: "never waits; copies the value out and in, once for each run of `fn`",
        example: r#"local best = relay.shared.update("best", function(best)
  return math.max(best or 0, 7)
end)
assert(best >= 7)"#,
    },
    Entry {
        name: "relay.state",
        signature: "{ [any]: any }",
        does: "This instance's own table for plain data. A reload carries it to the next generation, \
         through `migrate` if the version differs; a restart does not. It is there from `on_start` on: nil \
         while a script loads and in `on_load`. From a reload on, the old generation's table is read-only.",
        arguments: &[],
        results: "",
        errors: &[
            "assigning to `relay.state` itself raises; change what is in it",
            "a reload is refused if it holds what is not plain data; the error names the path, such \
             as `relay.state.players[3].on_hit`",
            "writing to it raises `state has moved to generation …` in a callback that waited \
             through a reload",
        ],
        cost: "cheap: a Lua table, in this instance only. A reload copies it",
        example: r#"relay.state.visits = (relay.state.visits or 0) + 1
assert(relay.state.visits >= 1)"#,
    },
    Entry {
        name: "relay.config",
        signature: "{ [string]: any }",
        does: "The app's settings from the configuration (`[app.settings]`), with tables in it as they \
         stand there. It is read-only, and there while a script loads.",
        arguments: &[],
        results: "",
        errors: &["writing to it, or to a table in it, raises"],
        cost: "cheap: a Lua table, made once for each generation",
        example: r#"assert(relay.config.secret == "s")
assert(relay.config.nothing == nil)"#,
    },
    Entry {
        name: "relay.env",
        signature: "(name: string) -> string?",
        does: "Reads a variable of the relay's environment. Only names that the app's setting `env` lists \
         can be read.",
        arguments: &[("name", "the variable's name")],
        results: "Its value, as bytes; nil if it is not set.",
        errors: &["raises if `name` is no string, or is not among the names that the app's `env` lists"],
        cost: "cheap: never waits",
        example: r#"-- It raises unless the app has env = ["GAME_LEVEL"].
local listed, level = pcall(relay.env, "GAME_LEVEL")
relay.log.info("the level", { level = listed and level or "not set" })"#,
    },
    Entry {
        name: "relay.now",
        signature: "() -> number",
        does: "The time of day. It may jump when the system's clock is set: to measure, take \
         `relay.monotonic`.",
        arguments: &[],
        results: "Seconds since 1970 in UTC (Unix time), with fractions.",
        errors: &[],
        cost: "cheap: never waits",
        example: r#"conn.state.since = relay.now()
conn:send_json({ type = "hello", at = math.floor(relay.now()) })"#,
    },
    Entry {
        name: "relay.monotonic",
        signature: "() -> number",
        does: "A clock that never jumps and never goes back, for measuring.",
        arguments: &[],
        results: "Seconds since some moment of the relay's own, with fractions; only differences mean something.",
        errors: &[],
        cost: "cheap: never waits",
        example: r#"local began = relay.monotonic()
relay.sleep("10ms")
assert(relay.monotonic() - began >= 0.009)"#,
    },
    Entry {
        name: "relay.app",
        signature: "string",
        does: "The app's name in the configuration.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "cheap: a field",
        example: r#"relay.log.info("open", { app = relay.app })"#,
    },
    Entry {
        name: "relay.generation",
        signature: "number",
        does: "Which load of the script this is, from 1; each reload that is taken over gets a higher \
         one. Every line of the log says it too.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "cheap: a field",
        example: r#"assert(relay.generation >= 1)"#,
    },
    Entry {
        name: "relay.instance",
        signature: "{ index: number, count: number }",
        does: "Which of the app's instances this is: `index` from 1 to `count`. It is read-only. For what \
         only one instance is to do, look for `index == 1`.",
        arguments: &[],
        results: "",
        errors: &["writing to it raises"],
        cost: "cheap: a field",
        example: r#"if relay.instance.index == 1 then
  relay.log.info("the first of the instances", { count = relay.instance.count })
end"#,
    },
    Entry {
        name: "relay.token",
        signature: "(s: string) -> string",
        does: "Makes any string one token of a room's name: each byte other than `A-Z a-z 0-9 _ -` \
         becomes `=XX` (hexadecimal), an empty string `=`. Two strings that differ give two tokens. Take it for \
         names made of what peers send, so that nobody can name another room.",
        arguments: &[("s", "any string")],
        results: "The token. It is up to three times as long as `s`: a room's name has 255 bytes at most.",
        errors: &["raises if `s` is no string"],
        cost: "cheap: never waits",
        example: r#"assert(relay.token("a.b ") == "a=2Eb=20" and relay.token("") == "=")
conn:join("room." .. relay.token(conn.query.name or ""))"#,
    },
    Entry {
        name: "relay.rate",
        signature: "(key: string, options: RateOptions) -> (boolean, number?)",
        does: "Takes one from the bucket named `key`, which holds `burst` and gains `per_second`. Buckets \
         are this instance's own; a reload does not refill them.",
        arguments: &[
            ("key", "a string that is not empty, such as `\"text:\" .. conn.id`"),
            ("options.per_second", "how many each second, above 0; it may have decimals (`1 / 60` is one a minute)"),
            ("options.burst", "how many at once after a rest, at least 1; `per_second` rounded up unless given"),
        ],
        results: "`true`, or `false` and the seconds until there is one again.",
        errors: &[
            "raises if `key` is no string or is empty",
            "raises if `options` is no table or has an unknown option, if `per_second` is no number \
             above 0, or `burst` no number of at least 1",
            "`false, 1` if `limits.rate_keys` (100,000) buckets are in use, none of them full; the \
             log says so, once in 10 seconds",
        ],
        cost: "cheap: one look-up, never waits. A bucket that is full again is forgotten when room is needed",
        example: r#"assert(relay.rate("text:" .. conn.id, { per_second = 1, burst = 2 }))
local calm, seconds = relay.rate("text:" .. conn.id, { per_second = 1, burst = 2 })
if not calm then
  conn:send_json({ type = "error", why = "too fast", again_in = seconds })
end"#,
    },
    Entry {
        name: "relay.log.debug",
        signature: "(message: any, fields: { [string]: any }?) -> ()",
        does: "Writes a line to the relay's log at the level `debug`, which `log.level` must let through \
         (it is `info` by default). Each line carries app, generation, instance, and the connection and user \
         whose callback runs. Never log a token or a password.",
        arguments: &[
            ("message", "a string, or what `tostring` makes one of; cut at 16 KiB"),
            (
                "fields",
                "a table of values that stand beside the message, as JSON; longer ones than 16 KiB, and \
             what does not fit into JSON (NaN, text that is not UTF-8), are left out, and the line says so",
            ),
        ],
        results: "",
        errors: &["raises if `fields` is no table, or holds what JSON has no word for, such as a \
             function; also when the level is not logged"],
        cost: "never waits; encodes `fields` also when the level is not logged",
        example: r#"relay.log.debug("open", { path = conn.path })"#,
    },
    Entry {
        name: "relay.log.info",
        signature: "(message: any, fields: { [string]: any }?) -> ()",
        does: "Writes a line to the relay's log at the level `info`. Otherwise as `relay.log.debug`.",
        arguments: &[
            ("message", "a string, or what `tostring` makes one of; cut at 16 KiB"),
            ("fields", "a table of values that stand beside the message, as for `relay.log.debug`"),
        ],
        results: "",
        errors: &["raises if `fields` is no table, or holds what JSON has no word for, such as a function"],
        cost: "never waits; encodes `fields` and writes a line",
        example: r#"relay.log.info("open", { connections = relay.count() })"#,
    },
    Entry {
        name: "relay.log.warn",
        signature: "(message: any, fields: { [string]: any }?) -> ()",
        does: "Writes a line to the relay's log at the level `warn`. Otherwise as `relay.log.debug`.",
        arguments: &[
            ("message", "a string, or what `tostring` makes one of; cut at 16 KiB"),
            ("fields", "a table of values that stand beside the message, as for `relay.log.debug`"),
        ],
        results: "",
        errors: &["raises if `fields` is no table, or holds what JSON has no word for, such as a function"],
        cost: "never waits; encodes `fields` and writes a line",
        example: r#"relay.log.warn("the name is odd", { name = conn.query.name })"#,
    },
    Entry {
        name: "relay.log.error",
        signature: "(message: any, fields: { [string]: any }?) -> ()",
        does: "Writes a line to the relay's log at the level `error`. It raises nothing and does not call \
         `on_error`. Otherwise as `relay.log.debug`.",
        arguments: &[
            ("message", "a string, or what `tostring` makes one of; cut at 16 KiB"),
            ("fields", "a table of values that stand beside the message, as for `relay.log.debug`"),
        ],
        results: "",
        errors: &["raises if `fields` is no table, or holds what JSON has no word for, such as a function"],
        cost: "never waits; encodes `fields` and writes a line",
        example: r#"relay.log.error("the upstream is gone", { tries = 3 })"#,
    },
    Entry {
        name: "print",
        signature: "(...any) -> ()",
        does: "Writes its arguments to the relay's log at the level `info`, as `tostring` shows them, \
         with tabs between them.",
        arguments: &[("...", "any values; the line is cut at 16 KiB")],
        results: "",
        errors: &["raises what a `__tostring` of an argument raises"],
        cost: "never waits; writes a line",
        example: r#"print("open", conn.id, conn.path)"#,
    },
    Entry {
        name: "require",
        signature: "(name: string) -> any",
        does: "Loads a module and returns what it returned: `require(\"a.b\")` is `a/b.lua`, `a/b.luau`, \
         `a/b/init.lua` or `a/b/init.luau`, the first that is there, in the folder of the app's script and \
         never elsewhere. A module runs once in a generation. Names under `moonwire.` are libraries that the \
         relay carries. Saving a module reloads like saving the script.",
        arguments: &[("name", "letters, digits, `_` and `-`, with dots between folders")],
        results: "What the module returned; `true` if that was nil.",
        errors: &[
            "raises if `name` is no string, is no such name, names no file, or names one that leads \
             out of the folder by a link",
            "raises if modules require each other in a circle, and what the module itself raises",
        ],
        cost: "the first time reads and runs the file, within the budget of the load or of the callback \
         that calls it; then one look-up",
        example: r#"local shape = require("moonwire.shape")
assert(type(shape.of) == "function")"#,
    },
];
