//! `conn`, and what `relay.room` and `relay.user` give.

use super::{Entry, Type};

pub const TYPES: &[Type] = &[
    Type {
        name: "Identity",
        means: "string | { id: string, expires_at: number?, allow: { string }?, deny: { string }? }",
    },
    Type { name: "SendOptions", means: "boolean | { binary: boolean?, droppable: boolean? }" },
    Type {
        name: "PublishOptions",
        means: "boolean | { binary: boolean?, except: Conn | string | { Conn | string } | nil }",
    },
];

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "conn.id",
        signature: "string",
        does: "The name of this connection: unique among all instances, and never used again, not even by a later \
            start of the relay. `relay.conn(id)` finds the connection by it; for one of another instance that is a \
            handle with only `id`, `send`, `send_json` and `close`.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: nothing leaves the instance, never waits.",
        example: "assert(relay.conn(conn.id).id == conn.id)",
    },
    Entry {
        name: "conn.user",
        signature: "{ [string]: any }?",
        does: "The identity that `authenticate` returned, or the last one given to `conn:identify`, as a read-only \
            table; nil for an anonymous connection. An identity that was a plain string is `{ id = … }`. A renewal \
            makes another table, and `set_allow` and the like do not change what stands in it.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it: it is read-only, with all tables in it"],
        cost: "Made at the first look and kept with the connection; never waits.",
        example: r#"local app = {}

function app.authenticate(request)
  return { id = "ann", role = "admin" }
end

function app.on_open(conn)
  assert(conn.user.id == "ann" and conn.user.role == "admin")
end

return app"#,
    },
    Entry {
        name: "conn.state",
        signature: "{ [any]: any }",
        does: "A table of the connection's own, empty at first, for plain data (nil, booleans, numbers, strings, \
            buffers, tables of these, at most 64 deep). It is carried over a reload, and may be replaced by \
            another table. After the close, who still holds the conn still has its last state.",
        arguments: &[],
        results: "",
        errors: &[
            "raises if anything but a table is assigned to it",
            "raises `state has moved to generation N` on a write from a callback of an older generation, once a \
                newer one has taken it over",
            "a reload is refused, with the path in its error, if the state holds what is not plain data; tables \
                that two states share count as that",
        ],
        cost: "Cheap. The first look after a reload copies it into the new generation (and runs `migrate_conn`); \
            never waits.",
        example: r#"conn.state.name = conn.query.name or "guest"
conn.state.seen = 0
assert(conn.state.name == "ann")"#,
    },
    Entry {
        name: "conn.path",
        signature: "string",
        does: "The path of the handshake, percent-encoded as it came, without the query.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: nothing leaves the instance, never waits.",
        example: r#"assert(conn.path == "/app/lobby")"#,
    },
    Entry {
        name: "conn.params",
        signature: "{ [string]: string }",
        does: "What the app's path pattern found in the path, percent-decoded: with `path = \"/app/{room}\"`, \
            `params.room`. Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it"],
        cost: "Made at the first look and kept with the connection; never waits.",
        example: r#"local room = "chat." .. relay.token(conn.params.room or "lobby")
assert(conn:join(room))"#,
    },
    Entry {
        name: "conn.query",
        signature: "{ [string]: string }",
        does: "The query of the handshake, decoded (`+` is a space); of a repeated key the first counts, and a key \
            without `=` is `\"\"`. Values are bytes and need not be UTF-8. Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it"],
        cost: "Made at the first look and kept with the connection; never waits.",
        example: r#"local name = conn.query.name
if not name or not utf8.len(name) then name = "guest" end
assert(name == "ann")"#,
    },
    Entry {
        name: "conn.headers",
        signature: "{ [string]: string }",
        does: "The headers of the handshake: names in lower case, repeated ones joined by `, ` (those of `cookie` \
            by `; `). Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it"],
        cost: "Made at the first look and kept with the connection; never waits.",
        example: r#"conn.state.agent = conn.headers["user-agent"] or "unknown""#,
    },
    Entry {
        name: "conn.cookies",
        signature: "{ [string]: string }",
        does: "The cookies of the handshake by name, without the quotes around a value; of a repeated name the \
            first counts. Read-only.",
        arguments: &[],
        results: "",
        errors: &["raises on a write to it"],
        cost: "Made at the first look and kept with the connection; never waits.",
        example: r#"conn.state.theme = conn.cookies.theme or "light""#,
    },
    Entry {
        name: "conn.remote_addr",
        signature: "string",
        does: "The peer's address, without a port. Behind `server.trusted_proxies` it is the one that the proxy \
            tells; `\"unix\"` if it came by a unix socket and none is told.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: nothing leaves the instance, never waits.",
        example: r#"relay.log.info("opened", { from = conn.remote_addr })"#,
    },
    Entry {
        name: "conn.subprotocol",
        signature: "string?",
        does: "The subprotocol that the handshake ended with: what `authenticate` chose, else the first one \
            offered that the app's `subprotocols` lists; nil for none. A token that came as `bearer, <token>` \
            leaves `\"bearer\"` here, if nothing else was agreed on.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: nothing leaves the instance, never waits.",
        example: r#"if conn.subprotocol == "v2.json" then
  conn.state.version = 2
end"#,
    },
    Entry {
        name: "conn.opened_at",
        signature: "number",
        does: "When the connection was opened: Unix seconds, with a fraction.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: nothing leaves the instance, never waits.",
        example: "assert(relay.now() - conn.opened_at < 60)",
    },
    Entry {
        name: "conn:send",
        signature: "(data: string, options: SendOptions?) -> (boolean, string?)",
        does: "Queues one message to this connection. What waits for a connection is bounded by `limits.outbox` (1 \
            MiB) and in number by one for each 32 bytes of that (32,768); a message that is larger than the bound \
            is taken when no other waits. On the handle of a connection in another instance, `true` means handed \
            over.",
        arguments: &[
            (
                "data",
                "The message: a string of bytes. A text message must be UTF-8. Nothing bounds its length but the \
                    outbox.",
            ),
            (
                "options.binary",
                "`true` sends a binary message; default `false`, a text message. `options` may be this boolean \
                    itself.",
            ),
            (
                "options.droppable",
                "`true` drops this message, instead of closing the connection with 1013, when the outbox is full; \
                    default `false`.",
            ),
        ],
        results: "`true` once it is queued, which does not say that the peer has got it; else `false, why`.",
        errors: &[
            "raises if `data` is not a string, or not UTF-8 without `binary`",
            "raises if `options` has a field other than `binary` and `droppable`, or one that is not a boolean",
            "`false, \"closed\"` once a close was sent or received, in `on_close` too; on a handle, if the worker \
                of the other instance has stopped",
            "`false, \"slow\"` if the outbox is full: the connection is closed with 1013, or, with `droppable`, \
                only this message is dropped",
            "`false, \"busy\"` on a handle only: more than `limits.bus` (16 MiB) waits for the other worker",
        ],
        cost: "Cheap: about a microsecond and a copy of the data. It queues and never waits; what the network does \
            not take stays in the outbox.",
        example: r#"assert(conn:send("welcome"))
conn:send("\1\2\3", { binary = true, droppable = true })"#,
    },
    Entry {
        name: "conn:send_json",
        signature: "(value: any, options: SendOptions?) -> (boolean, string?)",
        does: "The same with `value` encoded as JSON, as `relay.json.encode` does it.",
        arguments: &[
            ("value", "What is sent. An empty table is `{}` unless `relay.json.array` has marked it; a nil is `null`."),
            (
                "options.binary",
                "`true` sends a binary message; default `false`, a text message. `options` may be this boolean \
                    itself.",
            ),
            (
                "options.droppable",
                "`true` drops this message, instead of closing the connection with 1013, when the outbox is full; \
                    default `false`.",
            ),
        ],
        results: "`true` once it is queued; else `false, why`.",
        errors: &[
            "raises if `value` holds what JSON has no word for: a function, a userdata, a table that holds itself, \
                a list with holes, list elements beside named fields",
            "raises if `options` has a field other than `binary` and `droppable`, or one that is not a boolean",
            "`false, why` if the data do not fit JSON, in words: NaN or an infinity, an integer beyond ±2^53, a \
                string that is not UTF-8, deeper than `limits.json_depth` (64), more than 64 MiB",
            "`false, \"closed\"`, `false, \"slow\"` and `false, \"busy\"` as `conn:send`",
        ],
        cost: "Cheap for a small value: the encoding, which grows with its size, then as `conn:send`. Never waits.",
        example: r#"assert(conn:send_json({ type = "hello", id = conn.id }))
local sent, why = conn:send_json({ at = 0 / 0 })
assert(not sent and why ~= nil)"#,
    },
    Entry {
        name: "conn:close",
        signature: "(code: number?, reason: string?) -> ()",
        does: "Sends what is queued, then a close frame. Messages that have not been handled are dropped, and \
            `on_close` comes after the running callback has ended. Only the first close of a connection counts; on \
            one that has closed it does nothing.",
        arguments: &[
            (
                "code",
                "The close code: 1000 (the default), 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013, or 3000 to \
                    4999.",
            ),
            ("reason", "Text in UTF-8 of at most 123 bytes; default `\"\"`."),
        ],
        results: "",
        errors: &[
            "raises if `code` is not a number, or cannot be sent",
            "raises if `reason` is not a string in UTF-8, or longer than 123 bytes",
        ],
        cost: "Cheap: queues, never waits. A peer that does not answer the close frame is cut off after \
            `limits.close_timeout` (5 s).",
        example: r#"conn:close(4001, "come back later")
local sent, why = conn:send("too late")
assert(not sent and why == "closed")"#,
    },
    Entry {
        name: "conn:join",
        signature: "(room: string) -> (boolean, string?)",
        does: "Makes the connection a member of a room, which gets what is published to it from then on. Joining \
            twice is joining once; a connection leaves its rooms by itself when it closes.",
        arguments: &[(
            "room",
            "The name of the room: 1 to 255 bytes, tokens with dots between them. Make a token of what people \
                    send with `relay.token`.",
        )],
        results: "`true` if it is a member now; else `false, why`.",
        errors: &[
            "raises if `room` is not a string",
            "raises if a second argument is given that is not nil or an empty table: there are no options",
            "`false, \"bad_name\"` if the name is empty, over `limits.room_name` (255 bytes), not UTF-8, has \
                control characters, or has a token `*` or `>`",
            "`false, \"closed\"` once a close was sent or received",
            "`false, \"forbidden\"` if the identity's lists do not permit `join` on this name",
            "`false, \"limits.rooms_per_connection\"` if it is in that many rooms and patterns (128 together)",
        ],
        cost: "Cheap: never waits. With `allow` or `deny` it looks at each of their rules.",
        example: r#"assert(conn:join("lobby"))
assert(conn:join("lobby")) -- once
local joined, why = conn:join("rooms.*")
assert(not joined and why == "bad_name")"#,
    },
    Entry {
        name: "conn:leave",
        signature: "(room: string) -> (boolean, string?)",
        does: "Takes the connection out of a room.",
        arguments: &[("room", "The name of the room.")],
        results: "`true` if it was a member; else `false, why`.",
        errors: &[
            "raises if `room` is not a string",
            "`false, \"not_member\"` if it is not in a room of that name, whatever the name is",
            "`false, \"bad_name\"` if the name is not UTF-8",
            "`false, \"closed\"` after `on_close` has ended",
        ],
        cost: "Cheap: never waits.",
        example: r#"conn:join("lobby")
assert(conn:leave("lobby"))
local left, why = conn:leave("lobby")
assert(not left and why == "not_member")"#,
    },
    Entry {
        name: "conn:rooms",
        signature: "() -> { string }",
        does: "The rooms that the connection is in, in the order of joining; patterns are not among them. In \
            `on_close` it still tells them, after that the list is empty.",
        arguments: &[],
        results: "A list of names.",
        errors: &[],
        cost: "Builds a table as long as the answer, at most `limits.rooms_per_connection` (128); never waits.",
        example: r#"conn:join("lobby")
conn:join("news")
assert(table.concat(conn:rooms(), " ") == "lobby news")"#,
    },
    Entry {
        name: "conn:join_pattern",
        signature: "(pattern: string) -> (boolean, string?)",
        does: "From now on the connection gets what is published to any room whose name fits: `*` stands for one \
            token, a last `>` for one or more. Whoever is reached in several ways gets a message once. It is no \
            membership: `room:members` and `room:count` do not show it.",
        arguments: &[("pattern", "As the name of a room, with the tokens `*` and, as the last one, `>`.")],
        results: "`true` if it has joined; else `false, why`.",
        errors: &[
            "raises if `pattern` is not a string",
            "raises if a second argument is given that is not nil or an empty table: there are no options",
            "`false, \"bad_name\"` if it is empty, over `limits.room_name` (255 bytes), not UTF-8, has control \
                characters, or a `>` that is not last",
            "`false, \"closed\"` once a close was sent or received",
            "`false, \"forbidden\"` unless one rule of `allow` covers every name that it matches (or there is no \
                `allow`) and no `deny` rule overlaps it",
            "`false, \"limits.rooms_per_connection\"` if it is in that many rooms and patterns (128 together)",
        ],
        cost: "Cheap: never waits. But each publish of the instance is compared with every pattern that is joined \
            in it.",
        example: r#"assert(conn:join_pattern("news.*"))
relay.room("news.sport"):publish("goal") -- it gets this
relay.room("news.sport.late"):publish("goal") -- and not this"#,
    },
    Entry {
        name: "conn:leave_pattern",
        signature: "(pattern: string) -> (boolean, string?)",
        does: "Ends a `conn:join_pattern` of exactly this pattern.",
        arguments: &[("pattern", "The pattern, as it was joined.")],
        results: "`true` if it had joined it; else `false, why`.",
        errors: &[
            "raises if `pattern` is not a string",
            "`false, \"not_member\"` if it has not joined this pattern",
            "`false, \"bad_name\"` if it is not UTF-8",
            "`false, \"closed\"` after `on_close` has ended",
        ],
        cost: "Cheap: never waits.",
        example: r#"conn:join_pattern("news.>")
assert(conn:leave_pattern("news.>"))"#,
    },
    Entry {
        name: "conn:publish",
        signature: "(room: string, data: string, options: PublishOptions?) -> (boolean, string?)",
        does: "Sends a message to everybody in the room, and to everybody whose pattern fits, but the connection \
            itself. It need not be a member. It is the connection's act, checked against its `allow` and `deny`, \
            and works in `on_close`.",
        arguments: &[
            ("room", "The name of the room."),
            (
                "data",
                "The message: a string of bytes. A text message must be UTF-8. Nothing bounds its length but the \
                    outbox.",
            ),
            (
                "options.binary",
                "`true` sends a binary message; default `false`, a text message. `options` may be this boolean \
                    itself.",
            ),
            (
                "options.except",
                "Who is left out: a conn, an id, or a list of them; default nobody. An id of no live connection is \
                    ignored. For a connection of another instance give its id.",
            ),
        ],
        results: "`true` once it is queued for all, also if nobody is there; else `false, why`.",
        errors: &[
            "raises if `room` is not a string",
            "raises if `data` is not a string, or not UTF-8 without `binary`",
            "raises if `options` has a field other than `binary` and `except`, if `binary` is not a boolean, or if \
                `except` is anything but a conn of this instance, an id or a list of them",
            "`false, \"closed\"` after `on_close` has ended",
            "`false, \"bad_name\"` if the name is empty, over `limits.room_name` (255 bytes), not UTF-8, has \
                control characters, or has a token `*` or `>`",
            "`false, \"forbidden\"` if the identity's lists do not permit `publish` on this name",
            "`false, \"busy\"` if more than `limits.bus` (16 MiB) waits for a worker that has to hear of it; then \
                nobody has got it",
        ],
        cost: "Encoded once, and queued to each member that gets it: about a microsecond and the bytes, and a \
            little for each of them. It reaches all instances and never waits; a member whose outbox is full is \
            closed with 1013.",
        example: r#"conn:join("lobby")
assert(conn:publish("lobby", "ann is here"))"#,
    },
    Entry {
        name: "conn:publish_json",
        signature: "(room: string, value: any, options: PublishOptions?) -> (boolean, string?)",
        does: "The same with `value` encoded as JSON, once.",
        arguments: &[
            ("room", "The name of the room."),
            ("value", "What is sent, as for `conn:send_json`."),
            (
                "options.binary",
                "`true` sends a binary message; default `false`, a text message. `options` may be this boolean \
                    itself.",
            ),
            (
                "options.except",
                "Who is left out: a conn, an id, or a list of them; default nobody. An id of no live connection is \
                    ignored. For a connection of another instance give its id.",
            ),
        ],
        results: "`true` once it is queued for all; else `false, why`.",
        errors: &[
            "raises if `room` is not a string",
            "raises if `value` holds what JSON has no word for: a function, a userdata, a table that holds itself, \
                a list with holes, list elements beside named fields",
            "raises if `options` has a field other than `binary` and `except`, if `binary` is not a boolean, or if \
                `except` is anything but a conn of this instance, an id or a list of them",
            "`false, why` if the data do not fit JSON, in words: NaN or an infinity, an integer beyond ±2^53, a \
                string that is not UTF-8, deeper than `limits.json_depth` (64), more than 64 MiB",
            "`false, \"closed\"`, `false, \"bad_name\"`, `false, \"forbidden\"` and `false, \"busy\"` as \
                `conn:publish`",
        ],
        cost: "The encoding, which grows with the value's size, then as `conn:publish`. Never waits.",
        example: r#"assert(conn:publish_json("lobby", { type = "joined", id = conn.id }))"#,
    },
    Entry {
        name: "conn:identify",
        signature: "(identity: Identity) -> (boolean, string?)",
        does: "Gives an anonymous connection its identity, for good, or renews the same id: data, `allow`, `deny` \
            and `expires_at` are replaced as a whole, so what is left out is gone. Rooms and patterns that the new \
            lists do not permit are left, and `on_revoked` tells of each.",
        arguments: &[
            ("identity", "A table with a string `id`, plain data besides, or just that string."),
            ("identity.id", "Who it is: UTF-8, not empty."),
            (
                "identity.expires_at",
                "Unix seconds at which the connection is closed with 4401; default never. What is more than 365 \
                    days away is not waited for.",
            ),
            (
                "identity.allow",
                "A list of at most 1,024 rules `\"action resource\"`; with it, what no rule fits is forbidden. \
                    Default: no such list. An empty one forbids every `join` and `publish`.",
            ),
            (
                "identity.deny",
                "A list of at most 1,024 rules; what one of them fits is forbidden, whatever `allow` says. \
                    Default: no such list.",
            ),
        ],
        results: "`true` if it has the identity now; else `false, why`.",
        errors: &[
            "raises if the connection has another id already",
            "raises if `identity` is neither a table nor a string, has no `id`, or is not plain data",
            "raises if `expires_at` is not a number, or a list has what is no rule",
            "`false, \"closed\"` once a close was sent or received",
        ],
        cost: "Copies the identity, and looks at each room that the connection is in. Reaches this connection \
            only; never waits. A new `expires_at` counts once the callback has ended or waits.",
        example: r#"assert(conn:identify({ id = "ann", role = "guest", expires_at = relay.now() + 3600 }))
assert(conn.user.id == "ann" and relay.user("ann"):online())
assert(conn:identify({ id = "ann", role = "admin" })) -- the same id: it does not expire any more
assert(conn.user.role == "admin")"#,
    },
    Entry {
        name: "conn:can",
        signature: "(action: string, resource: string) -> (boolean, string)",
        does: "Whether the identity's lists permit an action, and which rule decided. It answers for `join` and \
            `publish`, which the relay asks for itself, and for any action of the script's own, such as `edit`. An \
            anonymous connection has no lists.",
        arguments: &[
            ("action", "A word; not empty."),
            ("resource", "A name as rooms have: 1 to 255 bytes, no token `*` or `>`."),
        ],
        results: "`boolean, why`. With `true`: `\"allow …\"` with the rule that fits, or `\"no_lists\"` if there \
            is no `allow` list and no `deny` rule that fits.",
        errors: &[
            "raises if `action` or `resource` is not a string, or `action` is empty",
            "`false, \"deny …\"` with the `deny` rule that fits, such as `\"deny join room.9\"`",
            "`false, \"no_rule\"` if there is an `allow` list and nothing in it fits",
            "`false, \"bad_name\"` if `resource` is not the name of one resource",
        ],
        cost: "Cheap: looks at each rule of both lists until one decides; never waits.",
        example: r#"conn:identify({ id = "ann", allow = { "join room.>", "edit doc.7" }, deny = { "join room.9" } })
assert(conn:can("edit", "doc.7"))
local may, why = conn:can("join", "room.9")
assert(not may and why == "deny join room.9")
may, why = conn:can("publish", "room.1")
assert(not may and why == "no_rule")"#,
    },
    Entry {
        name: "conn:buffered",
        signature: "() -> number",
        does: "How many bytes the kernel has not yet taken, those of frame headers and pings included: 0 for a \
            peer that keeps up. Look at it before sending more of something large.",
        arguments: &[],
        results: "Bytes; 0 after the close.",
        errors: &[],
        cost: "Cheap: reads a number; never waits.",
        example: r#"if conn:buffered() < 64 * 1024 then
  conn:send(string.rep("x", 1000), { binary = true })
end"#,
    },
    Entry {
        name: "room.name",
        signature: "string",
        does: "The name that `relay.room` was given; `\"\"` if that was not UTF-8, which names no room.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: nothing leaves the instance, never waits.",
        example: r#"assert(relay.room("news").name == "news")"#,
    },
    Entry {
        name: "room:publish",
        signature: "(data: string, options: PublishOptions?) -> (boolean, string?)",
        does: "Sends a message to every member of the room, and to everybody whose pattern fits, over all \
            instances. It is the script's own act: nobody's `allow` and `deny` are looked at.",
        arguments: &[
            (
                "data",
                "The message: a string of bytes. A text message must be UTF-8. Nothing bounds its length but the \
                    outbox.",
            ),
            (
                "options.binary",
                "`true` sends a binary message; default `false`, a text message. `options` may be this boolean \
                    itself.",
            ),
            (
                "options.except",
                "Who is left out: a conn, an id, or a list of them; default nobody. An id of no live connection is \
                    ignored. For a connection of another instance give its id.",
            ),
        ],
        results: "`true` once it is queued for all, also if nobody is there; else `false, why`.",
        errors: &[
            "raises if `data` is not a string, or not UTF-8 without `binary`",
            "raises if `options` has a field other than `binary` and `except`, if `binary` is not a boolean, or if \
                `except` is anything but a conn of this instance, an id or a list of them",
            "raises while a script loads and in `on_load`",
            "`false, \"bad_name\"` if the name is empty, over `limits.room_name` (255 bytes), not UTF-8, has \
                control characters, or has a token `*` or `>`",
            "`false, \"busy\"` if more than `limits.bus` (16 MiB) waits for a worker that has to hear of it; then \
                nobody has got it",
        ],
        cost: "Encoded once, and queued to each member that gets it: about a microsecond and the bytes, and a \
            little for each of them. It reaches all instances and never waits; a member whose outbox is full is \
            closed with 1013.",
        example: r#"conn:join("news")
local news = relay.room("news")
assert(news:publish("tea is ready"))
assert(news:publish("\1\2", { binary = true, except = { conn } }))"#,
    },
    Entry {
        name: "room:publish_json",
        signature: "(value: any, options: PublishOptions?) -> (boolean, string?)",
        does: "The same with `value` encoded as JSON, once.",
        arguments: &[
            ("value", "What is sent, as for `conn:send_json`."),
            (
                "options.binary",
                "`true` sends a binary message; default `false`, a text message. `options` may be this boolean \
                    itself.",
            ),
            (
                "options.except",
                "Who is left out: a conn, an id, or a list of them; default nobody. An id of no live connection is \
                    ignored. For a connection of another instance give its id.",
            ),
        ],
        results: "`true` once it is queued for all; else `false, why`.",
        errors: &[
            "raises if `value` holds what JSON has no word for: a function, a userdata, a table that holds itself, \
                a list with holes, list elements beside named fields",
            "raises if `options` has a field other than `binary` and `except`, if `binary` is not a boolean, or if \
                `except` is anything but a conn of this instance, an id or a list of them",
            "raises while a script loads and in `on_load`",
            "`false, why` if the data do not fit JSON, in words: NaN or an infinity, an integer beyond ±2^53, a \
                string that is not UTF-8, deeper than `limits.json_depth` (64), more than 64 MiB",
            "`false, \"bad_name\"` and `false, \"busy\"` as `room:publish`",
        ],
        cost: "The encoding, which grows with the value's size, then as `room:publish`. Never waits.",
        example: r#"assert(relay.room("news"):publish_json({ type = "tea", ready = true }))"#,
    },
    Entry {
        name: "room:count",
        signature: "() -> number",
        does: "How many members the room has, over all instances. Patterns do not count; a member counts until its \
            `on_close` has ended.",
        arguments: &[],
        results: "A whole number; 0 for a name that nobody has joined.",
        errors: &[],
        cost: "Cheap: asks nobody and never waits.",
        example: r#"conn:join("news")
assert(relay.room("news"):count() == 1)"#,
    },
    Entry {
        name: "room:members",
        signature: "() -> { Conn }",
        does: "The members that live in this instance, the oldest connection first: all of them if the app has one \
            instance (the default), or if `shard_by` keeps each room in one.",
        arguments: &[],
        results: "A list of conns; empty if there are none.",
        errors: &[],
        cost: "Builds and sorts a table as long as the answer; for large rooms prefer `count` or `publish`. Never \
            waits.",
        example: r#"conn:join("news")
for _, member in relay.room("news"):members() do
  member:send("hello")
end"#,
    },
    Entry {
        name: "room:disconnect",
        signature: "(code: number?, reason: string?) -> boolean",
        does: "Closes the connection of every member, over all instances: what is queued goes first, then the \
            close frame. Messages that had come in whole before are still handled. Who only has a pattern that \
            fits stays.",
        arguments: &[
            (
                "code",
                "The close code: 1000 (the default), 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013, or 3000 to \
                    4999.",
            ),
            ("reason", "Text in UTF-8 of at most 123 bytes; default `\"\"`."),
        ],
        results: "`true`, also if the room has no members or its name could be no room's.",
        errors: &[
            "raises if `code` is not a number, or cannot be sent",
            "raises if `reason` is not a string in UTF-8, or longer than 123 bytes",
            "raises while a script loads and in `on_load`",
            "raises where a callback cannot wait, if it has to: in a metamethod, an iterator, `table.sort`, \
                `string.gsub`",
        ],
        cost: "Waits until all instances that have members have done it; at once if they are all here.",
        example: r#"assert(relay.room("game.7"):disconnect(4000, "the game is over"))"#,
    },
    Entry {
        name: "user.id",
        signature: "string",
        does: "The id that `relay.user` was given.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "Cheap: nothing leaves the instance, never waits.",
        example: r#"assert(relay.user("ann").id == "ann")"#,
    },
    Entry {
        name: "user:send",
        signature: "(data: string, options: SendOptions?) -> (boolean, string?)",
        does: "Queues one message to each connection of this user, over all instances. One whose outbox is full is \
            closed with 1013, or with `droppable` goes without this message; the others get it.",
        arguments: &[
            (
                "data",
                "The message: a string of bytes. A text message must be UTF-8. Nothing bounds its length but the \
                    outbox.",
            ),
            (
                "options.binary",
                "`true` sends a binary message; default `false`, a text message. `options` may be this boolean \
                    itself.",
            ),
            (
                "options.droppable",
                "`true` drops this message, instead of closing the connection with 1013, when the outbox is full; \
                    default `false`.",
            ),
        ],
        results: "`true` once it is handed to each, which does not say that any had room for it; else `false, why`.",
        errors: &[
            "raises if `data` is not a string, or not UTF-8 without `binary`",
            "raises if `options` has a field other than `binary` and `droppable`, or one that is not a boolean",
            "raises while a script loads and in `on_load`",
            "`false, \"closed\"` if the user has no connection",
            "`false, \"busy\"` if more than `limits.bus` (16 MiB) waits for a worker that has to hear of it; then \
                no connection has got it",
        ],
        cost: "Cheap: encoded once, queued to each connection; never waits.",
        example: r#"conn:identify("ann")
assert(relay.user("ann"):send("welcome"))
local sent, why = relay.user("bob"):send("are you there?")
assert(not sent and why == "closed")"#,
    },
    Entry {
        name: "user:send_json",
        signature: "(value: any, options: SendOptions?) -> (boolean, string?)",
        does: "The same with `value` encoded as JSON, once.",
        arguments: &[
            ("value", "What is sent, as for `conn:send_json`."),
            (
                "options.binary",
                "`true` sends a binary message; default `false`, a text message. `options` may be this boolean \
                    itself.",
            ),
            (
                "options.droppable",
                "`true` drops this message, instead of closing the connection with 1013, when the outbox is full; \
                    default `false`.",
            ),
        ],
        results: "`true` once it is handed to each; else `false, why`.",
        errors: &[
            "raises if `value` holds what JSON has no word for: a function, a userdata, a table that holds itself, \
                a list with holes, list elements beside named fields",
            "raises if `options` has a field other than `binary` and `droppable`, or one that is not a boolean",
            "raises while a script loads and in `on_load`",
            "`false, why` if the data do not fit JSON, in words: NaN or an infinity, an integer beyond ±2^53, a \
                string that is not UTF-8, deeper than `limits.json_depth` (64), more than 64 MiB",
            "`false, \"closed\"` and `false, \"busy\"` as `user:send`",
        ],
        cost: "The encoding, which grows with the value's size, then as `user:send`. Never waits.",
        example: r#"conn:identify("ann")
assert(relay.user("ann"):send_json({ type = "hello" }))"#,
    },
    Entry {
        name: "user:connections",
        signature: "() -> { Conn }",
        does: "The user's connections that live in this instance.",
        arguments: &[],
        results: "A list of conns, in the order in which they became this user's; empty if there are none.",
        errors: &[],
        cost: "Builds a table as long as the answer; never waits.",
        example: r#"conn:identify("ann")
assert(#relay.user("ann"):connections() == 1)"#,
    },
    Entry {
        name: "user:online",
        signature: "() -> boolean",
        does: "Whether the user has a connection in any instance. One counts until its `on_close` has ended, in \
            `on_close` too.",
        arguments: &[],
        results: "`true` or `false`.",
        errors: &[],
        cost: "Cheap: asks nobody and never waits.",
        example: r#"assert(not relay.user("bob"):online())"#,
    },
    Entry {
        name: "user:join",
        signature: "(room: string) -> (boolean, string?)",
        does: "Joins a room with every connection that the user has now, over all instances. Those that are \
            closing, that are in as many rooms as they may be, or whose lists do not permit it are left out, and \
            nothing tells of them.",
        arguments: &[("room", "The name of the room.")],
        results: "`true`, also if it left out some or all; else `false, why`.",
        errors: &[
            "raises if `room` is not a string",
            "raises if a second argument is given that is not nil or an empty table: there are no options",
            "raises while a script loads and in `on_load`",
            "raises where a callback cannot wait, if it has to: in a metamethod, an iterator, `table.sort`, \
                `string.gsub`",
            "`false, \"bad_name\"` if the name is empty, over `limits.room_name` (255 bytes), not UTF-8, has \
                control characters, or has a token `*` or `>`",
        ],
        cost: "Waits until all instances that have connections of the user have done it; at once if they are all \
            here.",
        example: r#"conn:identify("ann")
assert(relay.user("ann"):join("lobby"))
assert(conn:rooms()[1] == "lobby")"#,
    },
    Entry {
        name: "user:leave",
        signature: "(room: string) -> boolean",
        does: "Leaves a room with every connection of the user, over all instances. Patterns stay.",
        arguments: &[("room", "The name of the room.")],
        results: "`true`, also if nobody was in it or the name could be no room's.",
        errors: &[
            "raises if `room` is not a string",
            "raises while a script loads and in `on_load`",
            "raises where a callback cannot wait, if it has to: in a metamethod, an iterator, `table.sort`, \
                `string.gsub`",
        ],
        cost: "Waits until all instances that have connections of the user have done it; at once if they are all \
            here.",
        example: r#"conn:identify("ann")
conn:join("lobby")
assert(relay.user("ann"):leave("lobby"))
assert(#conn:rooms() == 0)"#,
    },
    Entry {
        name: "user:disconnect",
        signature: "(code: number?, reason: string?) -> boolean",
        does: "Closes every connection of the user, over all instances: what is queued goes first, then the close \
            frame. Messages that had come in whole before are still handled. It does not keep the user from coming \
            again.",
        arguments: &[
            (
                "code",
                "The close code: 1000 (the default), 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013, or 3000 to \
                    4999.",
            ),
            ("reason", "Text in UTF-8 of at most 123 bytes; default `\"\"`."),
        ],
        results: "`true`, also if the user has no connection.",
        errors: &[
            "raises if `code` is not a number, or cannot be sent",
            "raises if `reason` is not a string in UTF-8, or longer than 123 bytes",
            "raises while a script loads and in `on_load`",
            "raises where a callback cannot wait, if it has to: in a metamethod, an iterator, `table.sort`, \
                `string.gsub`",
        ],
        cost: "Waits until all instances that have connections of the user have done it; at once if they are all \
            here.",
        example: r#"assert(relay.user("bob"):disconnect(4403, "removed by an admin"))"#,
    },
    Entry {
        name: "user:set_allow",
        signature: "(list: { string }) -> boolean",
        does: "Replaces the `allow` list of every connection that the user has now, over all instances. Rooms and \
            patterns that are no longer permitted are left, and `on_revoked` tells of each. Later connections have \
            what `authenticate` gives them.",
        arguments: &[(
            "list",
            "At most 1,024 rules `\"action resource\"`: an action (letters, digits, `_` and `-`), a space, and \
                    a name or pattern as of rooms, such as `\"join room.42.>\"`.",
        )],
        results: "`true` once all instances have applied it, also if the user has no connection. An empty list \
            forbids every `join` and `publish`; only `conn:identify` can take the list away.",
        errors: &[
            "raises if `list` is not a list of rules, naming the one that is wrong",
            "raises while a script loads and in `on_load`",
            "raises where a callback cannot wait, if it has to: in a metamethod, an iterator, `table.sort`, \
                `string.gsub`",
        ],
        cost: "Waits until all instances that have connections of the user have applied it; at once if they are \
            all here. Each connection looks at every room that it is in.",
        example: r#"conn:identify({ id = "ann", allow = { "join room.>" } })
conn:join("room.7")
assert(relay.user("ann"):set_allow({ "join lobby" }))
assert(#conn:rooms() == 0 and conn:can("join", "lobby"))"#,
    },
    Entry {
        name: "user:set_deny",
        signature: "(list: { string }) -> boolean",
        does: "Replaces the `deny` list of every connection that the user has now, over all instances; it wins \
            over `allow`. Rooms and patterns that are no longer permitted are left, and `on_revoked` tells of \
            each.",
        arguments: &[(
            "list",
            "At most 1,024 rules `\"action resource\"`: an action (letters, digits, `_` and `-`), a space, and \
                    a name or pattern as of rooms, such as `\"join room.42.>\"`.",
        )],
        results: "`true` once all instances have applied it, also if the user has no connection. An empty list \
            denies nothing.",
        errors: &[
            "raises if `list` is not a list of rules, naming the one that is wrong",
            "raises while a script loads and in `on_load`",
            "raises where a callback cannot wait, if it has to: in a metamethod, an iterator, `table.sort`, \
                `string.gsub`",
        ],
        cost: "Waits until all instances that have connections of the user have applied it; at once if they are \
            all here. Each connection looks at every room that it is in.",
        example: r#"conn:identify("ann")
assert(relay.user("ann"):set_deny({ "join room.9" }))
local joined, why = conn:join("room.9")
assert(not joined and why == "forbidden")
assert(conn:join("room.8"))"#,
    },
    Entry {
        name: "user:update_allow",
        signature: "(fn: (list: { string }) -> { string }) -> boolean",
        does: "Computes a new `allow` list out of the present one, for every connection that the user has now. \
            `fn` is called once for each different list that they have, and again if somebody else changes one \
            meanwhile, so it should only compute. Rooms that are no longer permitted are left, and `on_revoked` \
            tells of each.",
        arguments: &[(
            "fn",
            "Gets a copy of the list, an empty one if there is none, and returns the new list. It may wait; other changes of this user wait for it.",
        )],
        results: "`true` once all instances have applied it, also if the user has no connection; then `fn` is not \
            called.",
        errors: &[
            "raises if `fn` is not a function, or returns what is not a list of rules",
            "raises what `fn` raises: the lists that are not yet computed stay as they are",
            "raises while a script loads and in `on_load`",
            "raises where a callback cannot wait, if it has to: in a metamethod, an iterator, `table.sort`, \
                `string.gsub`",
        ],
        cost: "Waits for a round of all instances that have connections of the user, and for one more after each \
            that has found new lists; at once if they are all here.",
        example: r#"conn:identify({ id = "ann", allow = { "join room.1" } })
assert(relay.user("ann"):update_allow(function(list)
  table.insert(list, "join room.2")
  return list
end))
assert(conn:can("join", "room.1") and conn:can("join", "room.2"))"#,
    },
];
