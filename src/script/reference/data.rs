//! What works on data alone: JSON, encodings, cryptography, tokens and passwords; and the Lua libraries that the binary
//! carries.

use super::{Entry, Type};

pub const TYPES: &[Type] = &[
    Type { name: "Duration", means: "number | string" },
    Type { name: "Plain", means: "nil | boolean | number | string | buffer | { [any]: any }" },
    Type { name: "JsonOptions", means: "{ big: \"string\"? }" },
    Type { name: "Base64Options", means: "{ url: boolean? }" },
    Type {
        name: "JwtVerifyOptions",
        means: "{ key: string?, jwks: string?, algorithms: { string }, audience: string | { string } | \
         nil, issuer: string | { string } | nil, leeway: Duration? }",
    },
    Type { name: "JwtSignOptions", means: "{ key: string, algorithm: string?, kid: string? }" },
    Type { name: "RouterOptions", means: "{ window: number?, fallback: RouterHandler?, binary: RouterBinary? }" },
    Type { name: "RouterHandler", means: "(conn: Conn, message: any) -> ...any" },
    Type { name: "RouterBinary", means: "(conn: Conn, data: string) -> ()" },
    Type { name: "RouterReceiver", means: "(conn: Conn, data: string, binary: boolean) -> ()" },
    Type { name: "RouterRequestOptions", means: "{ timeout: Duration? }" },
    Type { name: "ShapeField", means: "string | { [any]: any }" },
    Type { name: "ShapeFields", means: "{ [string]: ShapeField }" },
    Type { name: "ShapeCheck", means: "(value: any) -> ({ [string]: any }?, string?, string?)" },
];

pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "relay.json.encode",
        signature: "(value: any, options: JsonOptions?) -> (string?, string?)",
        does: "Writes a value as JSON. A table with the keys 1 to n is an array, one with strings as keys \
         an object; an empty table is `{}` unless `relay.json.array` has marked it. A whole number has no `.0`, \
         nil and `relay.json.null` are `null`.",
        arguments: &[
            ("value", "nil, a boolean, a number, a string in UTF-8, `relay.json.null`, or tables of these"),
            ("options.big", "`\"string\"` writes an integer beyond ±2^53 as a string; without it that is `nil, why`"),
        ],
        results: "The text, or `nil, why`. The text of `why` names the path, such as `value.users[3].age`.",
        errors: &[
            "raises if `value` holds what JSON has no word for: a function, a buffer, a userdata, a \
             table with both list elements and named fields, a list with holes, a key that is no string, or a \
             table that holds itself",
            "raises for an unknown option, or a `big` that is not `\"string\"`",
            "`nil, \"value.a is NaN, which JSON has no number for\"`, and the same of `inf`",
            "`nil, \"value.a is …, beyond ±2^53, …\"`: an integer that a number does not hold exactly",
            "`nil, \"value.a is not UTF-8 (at its byte …)\"`",
            "`nil, \"… is deeper than limits.json_depth (64)\"`",
            "`nil, \"… makes more than 67108864 bytes of JSON\"` (64 MiB)",
        ],
        cost: "computes on this thread, a few microseconds for a small message; never waits",
        example: r#"assert(relay.json.encode({ 1, 2.5, true }) == "[1,2.5,true]")
assert(relay.json.encode({ people = relay.json.array({}) }) == '{"people":[]}')
local text, why = relay.json.encode({ share = 0 / 0 })
assert(text == nil and why == "value.share is NaN, which JSON has no number for")"#,
    },
    Entry {
        name: "relay.json.decode",
        signature: "(text: string, options: JsonOptions?) -> (any, string?)",
        does: "Reads a JSON text, strictly. A JSON null becomes `relay.json.null`, an empty array is \
         marked as by `relay.json.array`, and of equal keys in an object the last one counts. What a peer sends \
         has whatever shape the peer likes: check the type of every field, for instance with `moonwire.shape`.",
        arguments: &[
            ("text", "one JSON value in UTF-8, with white space around it if need be"),
            (
                "options.big",
                "`\"string\"` reads an integer beyond ±2^53 as a string of its digits; without it that \
             is `nil, why`",
            ),
        ],
        results: "The value, or `nil, why`. Compare with `== nil`: the value may be `false`, and a null is \
         `relay.json.null`, which is true in a condition.",
        errors: &[
            "raises if `text` is no string, for an unknown option, or a `big` that is not `\"string\"`",
            "`nil, \"bad JSON at byte 4: expected ',' or ']', got '2'\"` and the like",
            "`nil, \"bad JSON: not UTF-8 at byte …\"`",
            "`nil, \"bad JSON at byte …: deeper than limits.json_depth (64)\"`",
            "`nil, \"bad JSON at byte …: an integer beyond ±2^53 …\"`, or `\"… a number that is out \
             of range\"`",
        ],
        cost: "computes on this thread, a few microseconds for a small message; never waits",
        example: r#"local message, why = relay.json.decode('{"text":"hello","to":null}')
assert(message ~= nil, why)
assert(message.text == "hello" and message.to == relay.json.null)
message, why = relay.json.decode("[1 2]")
assert(message == nil and why == "bad JSON at byte 4: expected ',' or ']', got '2'")"#,
    },
    Entry {
        name: "relay.json.null",
        signature: "any",
        does: "What a JSON null becomes, and what is written as one. It is equal only to itself, is plain \
         data, and is true in a condition; `type` says `\"userdata\"`.",
        arguments: &[],
        results: "",
        errors: &[],
        cost: "cheap: a constant",
        example: r#"local message = relay.json.decode('{"to":null}')
assert(message.to == relay.json.null and message.to ~= nil)
assert(relay.json.encode({ to = relay.json.null }) == '{"to":null}')"#,
    },
    Entry {
        name: "relay.json.array",
        signature: "(t: { any }) -> { any }",
        does: "Marks a table, so that it is written as `[]` when it is empty. The mark stays with it in a \
         `state`, in the store and in events. Marking twice is marking once.",
        arguments: &[("t", "a table without a metatable of its own")],
        results: "The same table.",
        errors: &["raises if `t` is no table, has a metatable, or is read-only"],
        cost: "cheap: never waits",
        example: r#"assert(relay.json.encode({}) == "{}")
assert(relay.json.encode(relay.json.array({})) == "[]")"#,
    },
    Entry {
        name: "relay.base64.encode",
        signature: "(data: string, options: Base64Options?) -> string",
        does: "Writes bytes as base64.",
        arguments: &[
            ("data", "any bytes"),
            (
                "options.url",
                "takes the alphabet for URLs (`-` and `_`), without padding; `false` unless given: `+` \
             and `/`, with padding",
            ),
        ],
        results: "The text.",
        errors: &["raises if `data` is no string, for an unknown option, or a `url` that is no boolean"],
        cost: "cheap for each byte; never waits",
        example: r#"assert(relay.base64.encode("a") == "YQ==")
assert(relay.base64.encode("a", { url = true }) == "YQ")"#,
    },
    Entry {
        name: "relay.base64.decode",
        signature: "(text: string, options: Base64Options?) -> (string?, string?)",
        does: "Reads base64. The padding may be there or not; white space may not.",
        arguments: &[
            ("text", "base64 in the alphabet that `url` says"),
            ("options.url", "reads the alphabet for URLs (`-` and `_`); `false` unless given: `+` and `/`"),
        ],
        results: "The bytes, or `nil, why`.",
        errors: &[
            "raises if `text` is no string, for an unknown option, or a `url` that is no boolean",
            "`nil, \"bad_base64\"`",
        ],
        cost: "cheap for each byte; never waits",
        example: r#"assert(relay.base64.decode("aGVsbG8=") == "hello")
local data, why = relay.base64.decode("not base64!")
assert(data == nil and why == "bad_base64")"#,
    },
    Entry {
        name: "relay.hex.encode",
        signature: "(data: string) -> string",
        does: "Writes bytes as hexadecimal digits in lower case, two for each byte.",
        arguments: &[("data", "any bytes")],
        results: "The text.",
        errors: &["raises if `data` is no string"],
        cost: "cheap for each byte; never waits",
        example: r#"assert(relay.hex.encode("\0\xabZ") == "00ab5a")"#,
    },
    Entry {
        name: "relay.hex.decode",
        signature: "(text: string) -> (string?, string?)",
        does: "Reads hexadecimal digits, in upper or lower case.",
        arguments: &[("text", "an even number of digits and nothing else")],
        results: "The bytes, or `nil, why`.",
        errors: &["raises if `text` is no string", "`nil, \"bad_hex\"`"],
        cost: "cheap for each byte; never waits",
        example: r#"assert(relay.hex.decode("00abAB") == "\0\xab\xab")
local data, why = relay.hex.decode("0g")
assert(data == nil and why == "bad_hex")"#,
    },
    Entry {
        name: "relay.crypto.sha256",
        signature: "(data: string) -> string",
        does: "The SHA-256 digest of bytes. It is quick, and so is guessing: for passwords take \
         `relay.password`.",
        arguments: &[("data", "any bytes")],
        results: "32 bytes; `relay.hex.encode` makes text of them.",
        errors: &["raises if `data` is no string"],
        cost: "computes on this thread, in proportion to the bytes; never waits",
        example: r#"local digest = relay.crypto.sha256("abc")
assert(relay.hex.encode(digest) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")"#,
    },
    Entry {
        name: "relay.crypto.sha1",
        signature: "(data: string) -> string",
        does: "The SHA-1 digest of bytes, for protocols that ask for it. It is broken where somebody may \
         choose the data: else take `relay.crypto.sha256`.",
        arguments: &[("data", "any bytes")],
        results: "20 bytes; `relay.hex.encode` makes text of them.",
        errors: &["raises if `data` is no string"],
        cost: "computes on this thread, in proportion to the bytes; never waits",
        example: r#"local digest = relay.crypto.sha1("abc")
assert(relay.hex.encode(digest) == "a9993e364706816aba3e25717850c26c9cd0d89d")"#,
    },
    Entry {
        name: "relay.crypto.md5",
        signature: "(data: string) -> string",
        does: "The MD5 digest of bytes, for protocols that ask for it. It is broken where somebody may \
         choose the data: else take `relay.crypto.sha256`.",
        arguments: &[("data", "any bytes")],
        results: "16 bytes; `relay.hex.encode` makes text of them.",
        errors: &["raises if `data` is no string"],
        cost: "computes on this thread, in proportion to the bytes; never waits",
        example: r#"local digest = relay.crypto.md5("abc")
assert(relay.hex.encode(digest) == "900150983cd24fb0d6963f7d28e17f72")"#,
    },
    Entry {
        name: "relay.crypto.hmac_sha256",
        signature: "(key: string, data: string) -> string",
        does: "The HMAC of bytes with SHA-256: shows that who made it has the key. Compare it with \
         `relay.crypto.equals`.",
        arguments: &[("key", "any bytes, at least one"), ("data", "any bytes")],
        results: "32 bytes; `relay.hex.encode` makes text of them.",
        errors: &["raises if `key` or `data` is no string, or if `key` is empty"],
        cost: "computes on this thread, in proportion to the bytes; never waits",
        example: r#"local text = "The quick brown fox jumps over the lazy dog"
local mac = relay.hex.encode(relay.crypto.hmac_sha256("key", text))
assert(mac == "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8")"#,
    },
    Entry {
        name: "relay.crypto.hmac_sha1",
        signature: "(key: string, data: string) -> string",
        does: "The HMAC of bytes with SHA-1, for protocols that ask for it.",
        arguments: &[("key", "any bytes, at least one"), ("data", "any bytes")],
        results: "20 bytes; `relay.hex.encode` makes text of them.",
        errors: &["raises if `key` or `data` is no string, or if `key` is empty"],
        cost: "computes on this thread, in proportion to the bytes; never waits",
        example: r#"local text = "The quick brown fox jumps over the lazy dog"
local mac = relay.hex.encode(relay.crypto.hmac_sha1("key", text))
assert(mac == "de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9")"#,
    },
    Entry {
        name: "relay.crypto.random_bytes",
        signature: "(n: number) -> string",
        does: "Random bytes of the system's generator, fit for keys and tokens. `math.random` is not.",
        arguments: &[("n", "how many bytes, a whole number from 0 to 65,536")],
        results: "`n` bytes.",
        errors: &["raises if `n` is no whole number from 0 to 65,536, or if the system gives no random bytes"],
        cost: "asks the system; never waits",
        example: r#"local token = relay.hex.encode(relay.crypto.random_bytes(16))
assert(#token == 32)"#,
    },
    Entry {
        name: "relay.crypto.uuid",
        signature: "() -> string",
        does: "A random UUID (version 4) of the system's generator.",
        arguments: &[],
        results: "36 characters in lower case, such as `\"3f0c2f8e-6d0b-4c0e-9d0a-5a1c0b7e9f42\"`.",
        errors: &["raises if the system gives no random bytes"],
        cost: "asks the system; never waits",
        example: r#"assert(#relay.crypto.uuid() == 36)"#,
    },
    Entry {
        name: "relay.crypto.equals",
        signature: "(a: string, b: string) -> boolean",
        does: "Compares two strings in a time that does not tell where they differ: take it for secrets \
         and signatures. It may tell that their lengths differ.",
        arguments: &[("a", "any bytes"), ("b", "any bytes")],
        results: "Whether they are the same.",
        errors: &["raises if `a` or `b` is no string: a missing header is nil, so write `or \"\"`"],
        cost: "in proportion to the bytes; never waits",
        example: r#"local expected = relay.hex.encode(relay.crypto.hmac_sha256(relay.config.secret, conn.path))
assert(not relay.crypto.equals(expected, conn.headers["x-signature"] or ""))"#,
    },
    Entry {
        name: "relay.jwt.verify",
        signature: "(token: string?, options: JwtVerifyOptions) -> ({ [string]: any }?, string?)",
        does: "Checks a JSON Web Token and gives its claims. Only the algorithms that you list are taken; \
         `exp` must be there, and `nbf` is looked at if it is. With `jwks` the key is found by the token's \
         `kid`, and in no other way.",
        arguments: &[
            (
                "token",
                "the token's text; nil, an empty or an over-long one is a bad token, so no check of \
             your own is needed",
            ),
            (
                "options.key",
                "the shared secret for HS256, HS384 and HS512; else the public key as a PEM text \
             (`-----BEGIN PUBLIC KEY-----`)",
            ),
            (
                "options.jwks",
                "a key set in place of `key`: a file in the script's folder (`\"keys.json\"`), or an \
             `https://` URL whose host `app.http.allow` lists. A set that was fetched is kept for \
             `limits.jwks_cache` (5 minutes); an unknown `kid` fetches again, at most every 30 seconds; if the \
             server cannot be reached, the last set is used",
            ),
            (
                "options.algorithms",
                "a list of `HS256`, `HS384`, `HS512`, `RS256`, `ES256`, `EdDSA`; with `key`, all of one \
             kind, since there is one key",
            ),
            (
                "options.audience",
                "a string or a list: one of them must be in the token's `aud`; not looked at unless given",
            ),
            ("options.issuer", "a string or a list: one of them must be the token's `iss`; not looked at unless given"),
            (
                "options.leeway",
                "how far clocks may differ at `exp` and `nbf`, in seconds or as in `\"1m\"`; 30 seconds \
             unless given",
            ),
        ],
        results: "The claims, or `nil, why`. An integer beyond ±2^53 in them is a string of its digits.",
        errors: &[
            "raises if `token` is neither a string nor nil, or if `options` is no table or has an \
             unknown option",
            "raises if `algorithms` is no list, is empty, names an unknown one, or ones of several \
             kinds for one `key`",
            "raises if the key is missing, empty, or not of the kind that the algorithms need: a \
             PEM text for HS256, a private key, or no PEM text for the others",
            "raises if `audience` or `issuer` is no string and no list of strings, or if `leeway` \
             is no duration or negative",
            "with a URL as `jwks`, when it must fetch: raises where nothing can wait, and when the \
             callback is cancelled while it waits",
            "`nil, \"bad_token\"`: no token at all, not of three parts, not JSON, a claim `exp` or \
             `nbf` that is no number, or a header with `crit`",
            "`nil, \"bad_token\"`: also for one of more than 8 KiB",
            "`nil, \"bad_algorithm\"`: not among `algorithms`; `nil, \"bad_signature\"`",
            "`nil, \"missing_exp\"`, `nil, \"expired\"`, `nil, \"not_yet_valid\"`",
            "`nil, \"bad_audience\"`, `nil, \"bad_issuer\"`",
            "`nil, \"missing_kid\"`, `nil, \"unknown_kid\"`: with `jwks`, the token names no key, \
             or one that the set does not have",
            "`nil, \"jwks: …\"`: the key set cannot be had, and there is none from before",
        ],
        cost: "computes on this thread: a hash for HS256, a public-key operation for RS256, ES256 and \
         EdDSA. Waits only when a `jwks` URL must be fetched",
        example: r#"local key = relay.config.secret
local token = relay.jwt.sign({ sub = "ann", exp = math.floor(relay.now()) + 900 }, { key = key })
local claims, why = relay.jwt.verify(token, { key = key, algorithms = { "HS256" } })
assert(claims and claims.sub == "ann", why)
claims, why = relay.jwt.verify(conn.query.token, { key = key, algorithms = { "HS256" } })
assert(claims == nil and why == "bad_token")"#,
    },
    Entry {
        name: "relay.jwt.sign",
        signature: "(claims: { [string]: any }, options: JwtSignOptions) -> string",
        does: "Makes a JSON Web Token. It adds no claims of its own, so give it an `exp`: \
         `relay.jwt.verify` takes no token without one.",
        arguments: &[
            ("claims", "a table with named fields that JSON can hold; times are whole Unix seconds"),
            ("options.key", "the shared secret for HS256, HS384 and HS512; else the private key as a PEM text"),
            ("options.algorithm", "one of `HS256`, `HS384`, `HS512`, `RS256`, `ES256`, `EdDSA`; `HS256` unless given"),
            ("options.kid", "the key's name for the token's header, UTF-8; none unless given"),
        ],
        results: "The token.",
        errors: &[
            "raises if `claims` is no table, has no named fields, or holds what JSON cannot; that \
             is a mistake here also where it depends on the data (NaN, text that is not UTF-8)",
            "raises if `options` is no table or has an unknown option, or if `algorithm` is unknown",
            "raises if `key` is missing, empty, or no private key of the kind that the algorithm \
             needs, or if `kid` is no string in UTF-8",
        ],
        cost: "computes on this thread: a hash for HS256, a private-key operation for RS256, ES256 and \
         EdDSA; never waits",
        example: r#"local token = relay.jwt.sign(
  { sub = "ann", exp = math.floor(relay.now()) + 900 },
  { key = relay.config.secret, algorithm = "HS256" }
)
conn:send_json({ type = "token", token = token })"#,
    },
    Entry {
        name: "relay.password.hash",
        signature: "(password: string) -> (string?, string?)",
        does: "Makes the argon2id hash of a password, to be stored in its place: a string that begins \
         with `$argon2id$` and has a random salt and its cost (19 MiB, 2 passes) in it.",
        arguments: &[("password", "at most 1,024 bytes")],
        results: "The hash, or `nil, why`.",
        errors: &[
            "raises if `password` is no string",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"the password is longer than 1024 bytes: …\"`",
            "`nil, \"the work was broken off\"`: it did not come to its end",
        ],
        cost: "waits; about 40 ms of another thread's CPU and 19 MiB. `limits.password_jobs` (2) of these \
         and of `verify` run at one time in the whole relay, the others wait their turn: count the tries with \
         `relay.rate`",
        example: r#"local hash, why = relay.password.hash("correct horse")
assert(hash, why)
assert(hash:sub(1, 10) == "$argon2id$")"#,
    },
    Entry {
        name: "relay.password.verify",
        signature: "(password: string, hash: string) -> (boolean?, string?)",
        does: "Says whether a password fits a stored hash. Where nobody has that name, verify against \
         some other hash all the same, or the time that the answer takes tells.",
        arguments: &[
            ("password", "at most 1,024 bytes"),
            (
                "hash",
                "an argon2 hash in the PHC form, such as `relay.password.hash` gives, or another \
             program with other costs",
            ),
        ],
        results: "`true` or `false`, or `nil, why`.",
        errors: &[
            "raises if `password` or `hash` is no string",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"the password is longer than 1024 bytes: …\"`",
            "`nil, \"this is not a password hash ($argon2id$…)\"`, `nil, \"this is a hash by …, and \
             not by argon2\"`, `nil, \"the hash has parameters that argon2 does not have\"` or `nil, \"the hash \
             is not whole\"`",
            "`nil, \"the hash costs too much (…)\"`: more than 256 MiB, 16 passes or 16 lanes",
            "`nil, \"the work was broken off\"`: it did not come to its end",
        ],
        cost: "waits; about 40 ms of another thread's CPU and 19 MiB for a hash of `relay.password.hash`. \
         `limits.password_jobs` (2) run at one time in the whole relay, the others wait their turn: count the \
         tries with `relay.rate`",
        example: r#"local hash = assert(relay.password.hash("correct horse"))
assert(relay.password.verify("correct horse", hash) == true)
local fits, why = relay.password.verify("correct horse", "correct horse")
assert(fits == nil and why == "this is not a password hash ($argon2id$…)")"#,
    },
    Entry {
        name: "moonwire.router.new",
        signature: "(options: RouterOptions?) -> Router",
        does: "Makes a router, which hands JSON messages to a handler for their `type`, with checked \
         fields. Called on what `require(\"moonwire.router\")` gives. A message with an `id` (a number, or a \
         string of at most 64 bytes) is answered with `{ type = \"ack\", id =, data = }`; the same `id` again \
         with `{ type = \"ack\", id =, duplicate = true }`, without the handler. One without `id` is answered \
         only if it is wrong.",
        arguments: &[
            (
                "options.window",
                "how many acknowledged ids of each connection are known, a whole number from 1 to \
             1,024; 64 unless given. They are in `conn.state[\"moonwire.router\"]` and outlive a reload",
            ),
            (
                "options.fallback",
                "`fallback(conn, message)` handles messages of a type that has no handler, with all \
             their fields, unchecked. What it returns counts as for a handler",
            ),
            (
                "options.binary",
                "`binary(conn, data)` gets binary messages; without it they are answered with the error \
             `bad_message`",
            ),
        ],
        results: "The router.",
        errors: &[
            "raises for an unknown option, a `window` that is no whole number from 1 to 1,024, or a \
             `fallback` or `binary` that is no function",
            "the peer of a wrong message gets `{ type = \"error\", id =, error =, message =, field \
             = }`; `error` is `bad_json`, `bad_message`, `bad_field` (`field` says which), `unknown_type`, \
             `refused` (the handler returned `false, why`) or `failed` (it raised)",
        ],
        cost: "cheap: makes a table, never waits. Make one when the script loads",
        example: r#"local app = {}
local router = require("moonwire.router").new({
  window = 16,
  fallback = function(conn, message)
    return false, `"{message.type}" is not spoken here`
  end,
})

router:on("ping", {}, function(conn, message)
  return { at = relay.now() }
end)

app.on_message = router:handler()

return app"#,
    },
    Entry {
        name: "router:on",
        signature: "(type: string, fields: ShapeFields, handler: RouterHandler) -> ()",
        does: "Handles messages of one type: `handler(conn, message)` gets a message with its `type`, its \
         `id` and the declared fields, and no others. What it returns is the `data` of the acknowledgement, if \
         the peer gave an `id`; `false, why` (or `nil, why`) answers with the error `refused` instead. It may \
         wait.",
        arguments: &[
            ("type", "a name that the router does not have yet, and not `ack`, `error` or `reply`"),
            ("fields", "for each name its type, as for `moonwire.shape.of`; not `type` or `id`"),
            ("handler", "a function; what it returns must be JSON data if the peer may give an `id`"),
        ],
        results: "",
        errors: &[
            "raises if it is not called with a colon, if `type` is no string, is taken or is one of \
             the three, or if `handler` is no function",
            "raises if `fields` is no table of names and types, or has `type` or `id`",
            "what a handler raises is answered with the error `failed`, and raises on: it goes to \
             `on_error` as ever",
        ],
        cost: "cheap: keeps a table, never waits. For each message then: decoding, and a check of each \
         declared field",
        example: r#"local app = {}
local router = require("moonwire.router").new()

router:on("say", { text = { "string", max = 500 }, to = { "string?", min = 1 } }, function(conn, message)
  if message.to and not relay.user(message.to):online() then
    return false, "nobody of that name"
  end
  return conn:publish_json("lobby", { type = "say", text = message.text })
end)

app.on_message = router:handler()

return app"#,
    },
    Entry {
        name: "router:handler",
        signature: "() -> RouterReceiver",
        does: "Gives the function that takes messages apart, for `on_message`. It also takes the replies \
         that `router:request` waits for.",
        arguments: &[],
        results: "A function `(conn, data, binary)`.",
        errors: &[],
        cost: "cheap: makes a function, never waits",
        example: r#"local app = {}
local router = require("moonwire.router").new()
local receive = router:handler()

function app.on_message(conn, data, binary)
  if relay.rate("message:" .. conn.id, { per_second = 10, burst = 20 }) then
    receive(conn, data, binary)
  end
end

return app"#,
    },
    Entry {
        name: "router:request",
        signature: "(conn: Conn, type: string, data: { [string]: any }?, options: RouterRequestOptions?) -> \
         (any, string?)",
        does: "Asks a peer and waits for its reply: sends the fields of `data` with `type` and an `id`, \
         and waits for `{ type = \"reply\", id =, data = }`. The reply comes through `on_message` of that \
         connection, so a callback of the same connection cannot wait for it: call it in `relay.spawn`, in a \
         timer or in a callback of another connection. What a peer replies is not checked.",
        arguments: &[
            ("conn", "a connection of this instance"),
            ("type", "the message's type"),
            ("data", "its other fields, none unless given; `type` and `id` in it are replaced"),
            ("options.timeout", "how long to wait, in seconds or as in `\"5s\"`; 10 seconds unless given"),
        ],
        results: "The `data` of the reply, `true` if it has none; or `nil, why`.",
        errors: &[
            "raises if `conn` is no connection of this instance, or if a callback of it runs",
            "raises if `type` is no string, if `data` is neither a table nor nil, or holds what \
             JSON has no word for, for an unknown option, or a wrong `timeout`",
            "raises where nothing can wait: inside a metamethod, a `for` iterator, `table.sort`, \
             `string.gsub` or a function given to a host call",
            "raises when the callback is cancelled while it waits: it takes longer than \
             `limits.callback_timeout` (60 s; `authenticate` 5 s, `on_request` 30 s), or `reload.drain` (10 s) \
             has passed since a reload, or `limits.waiting` (10,000) callbacks of the instance wait already",
            "raises while a script loads and in `on_load`; use `on_start`",
            "`nil, \"timeout\"`; a request does not outlive a reload, and ends so",
            "`nil, \"closed\"`: the connection has ended, and `router:closed` said so or nothing \
             could be sent",
            "`nil, \"slow\"`: the message did not fit into its outbox",
            "`nil, why` with the `message` of `{ type = \"error\", id =, message = }` that the peer \
             replied; `\"error\"` if it has none",
        ],
        cost: "waits; meanwhile the memory of the coroutine",
        example: r#"local app = {}
local router = require("moonwire.router").new()

app.on_message = router:handler()

function app.on_open(conn)
  relay.spawn(function()
    local version, why = router:request(conn, "version?", {}, { timeout = "100ms" })
    if version == nil then
      relay.log.info("the peer does not tell its version", { why = why })
    else
      relay.log.info("the peer", { version = tostring(version) })
    end
  end)
end

function app.on_close(conn)
  router:closed(conn)
end

return app"#,
    },
    Entry {
        name: "router:closed",
        signature: "(conn: Conn) -> ()",
        does: "Ends what waits in `router:request` for a reply of this connection: it returns `nil, \
         \"closed\"` and need not wait for its timeout. For `on_close`.",
        arguments: &[("conn", "the connection that has ended")],
        results: "",
        errors: &[],
        cost: "looks at each request that waits; never waits itself",
        example: r#"local app = {}
local router = require("moonwire.router").new()

app.on_message = router:handler()

function app.on_close(conn)
  router:closed(conn)
end

return app"#,
    },
    Entry {
        name: "moonwire.shape.of",
        signature: "(fields: ShapeFields) -> ShapeCheck",
        does: "Makes a check of data from outside, such as the body of a request: a function that gives \
         the declared fields of a table and no others. Called on what `require(\"moonwire.shape\")` gives. An \
         optional field that is missing or null is nil in what it gives.",
        arguments: &[(
            "fields",
            "for each name a type: `string`, `number`, `integer`, `boolean`, `array`, `object`, \
             `table` (either of both), `enum` or `any`; with `?` behind it the field may be left out or null. \
             With options it is a table that begins with the type, as in `{ \"string\", max = 500 }`: `min` and \
             `max` (of a number, of a string's bytes, of an array's elements), `of` (the type of each element \
             of an array), `fields` (those of an object; without it, it comes as it is), and the values of an \
             enum: `{ \"enum\", \"red\", \"green\" }`",
        )],
        results: "A function `check(value)`. It returns the fields; or `nil, field, why` with the path of \
         the first wrong field, such as `people[2].name`, and a text such as `\"text must be a string\"`. The \
         table that it was given stays as it is, except that elements of an `array` with `of` are replaced by \
         what was checked.",
        errors: &[
            "raises if `fields` is no table of names and types, for an unknown type, an option that \
             the type does not have, or an `enum` without values",
            "the check: `nil, \"\", \"must be an object\"` for what is no object, nil too",
            "the check: `nil, field, \"… is missing\"`, `\"… must be a string\"`, `\"… must have at \
             most 500 bytes\"`, `\"… must be one of red, green\"` and the like",
        ],
        cost: "cheap: make a check when the script loads. Each call then looks at each declared field and \
         element; never waits",
        example: r#"local check = require("moonwire.shape").of({ text = { "string", max = 500 }, to = "string?" })
local fields, field, why = check({ text = "hello", extra = 1 })
assert(fields and fields.text == "hello" and fields.extra == nil)
fields, field, why = check({ text = 7 })
assert(fields == nil and field == "text" and why == "text must be a string")"#,
    },
];
