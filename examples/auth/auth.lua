-- Who is it, and what may they do? Tokens (JWT, HS256), roles, and permissions per person.
--
--   POST /team/login   {"user": …, "password": …}  answers  {"token": …}
--   WebSocket /team/{room}?token=…                 (or Authorization: Bearer … outside a browser)
local users = require("users")
local app = {}

-- What each role may do: "action room", and * for every room.
local ROLES = {
  viewer = { "read lobby", "read news" },
  member = { "read lobby", "write lobby", "read news" },
  admin = { "read *", "write *", "remove *" },
}

local KEY = relay.env("AUTH_SECRET") or relay.config.secret
local TOKEN_SECONDS = relay.config.token_seconds or 900
local TEXT_BYTES = 2000
local DOES = { read = "enter", write = "write in", remove = "remove people from" }

-- The one place that decides. `user` is the identity, made from the token alone.
local function may(user, action, room)
  for _, rules in ipairs({ ROLES[user.role] or {}, user.also or {} }) do
    for _, rule in ipairs(rules) do
      if rule == action .. " " .. room or rule == action .. " *" then return true end
    end
  end
  return false, "a " .. user.role .. " may not " .. DOES[action] .. " " .. room
end

local function room_of(conn) return "team." .. relay.token(conn.params.room) end

-- ── logging in: plain HTTP on the same path ──
local function answer(status, value, headers)
  headers = headers or {}
  headers["content-type"], headers["cache-control"] = "application/json", "no-store"
  return { status = status, headers = headers, body = relay.json.encode(value) }
end

local function proof(salt, password)
  return relay.hex.encode(relay.crypto.hmac_sha256(relay.hex.decode(salt), password))
end

function app.on_request(request)
  if request.params.room ~= "login" then return answer(404, { why = "there is nothing here" }) end
  if request.method ~= "POST" then return answer(405, { why = "log in with POST" }, { allow = "POST" }) end
  -- JSON only: a form on somebody else's page cannot send it without this relay's leave.
  if not (request.headers["content-type"] or ""):find("^application/json") then
    return answer(415, { why = "send application/json" })
  end
  local calm, wait = relay.rate("login:" .. request.remote_addr, { per_second = 0.2, burst = 10 })
  if not calm then
    return answer(429, { why = "too many tries, wait a moment" }, { ["retry-after"] = tostring(math.ceil(wait)) })
  end
  local body = relay.json.decode(request.body)
  if type(body) ~= "table" or type(body.user) ~= "string" or type(body.password) ~= "string" then
    return answer(400, { why = "user and password must be strings" })
  end
  -- An unknown name costs the same work as a known one, and gets the same answer.
  local user = users[body.user]
  local known = user or { salt = ("0"):rep(32), proof = "" }
  if not relay.crypto.equals(proof(known.salt, body.password), known.proof) or not user then
    return answer(401, { why = "wrong name or password" })
  end
  local now = math.floor(relay.now())
  local token = relay.jwt.sign(
    { sub = body.user, role = user.role, also = user.also, aud = "team", iat = now, exp = now + TOKEN_SECONDS },
    { key = KEY, algorithm = "HS256" }
  )
  return answer(200, { token = token, role = user.role })
end

-- ── coming in ──
-- 4401 and 4403 complete the upgrade and close at once: a page in a browser sees only a close code
-- and its reason, never the HTTP status of a refused handshake.
function app.authenticate(request)
  local claims, why = relay.jwt.verify(request.bearer or request.query.token, {
    key = KEY,
    algorithms = { "HS256" },
    audience = "team",
  })
  if not claims then return relay.refuse(4401, ("log in again: " .. why):sub(1, 120)) end
  -- `expires_at`: the relay closes the connection with 4401 when the token runs out.
  local user = { id = claims.sub, role = claims.role, also = claims.also, expires_at = claims.exp }
  local room = request.params.room
  local allowed, reason = may(user, "read", room)
  if not allowed then return relay.refuse(4403, reason:sub(1, 120)) end
  return user
end

function app.on_open(conn)
  local user, room = conn.user, conn.params.room
  conn:join(room_of(conn))
  conn:send_json({ type = "welcome", id = user.id, role = user.role, room = room, may_write = may(user, "write", room) })
  conn:publish_json(room_of(conn), { type = "came", id = user.id, role = user.role })
end

-- ── talking: a message is a text, "/remove NAME" is for those who may ──
local function refused(conn, why) conn:send_json({ type = "refused", why = why }) end

function app.on_message(conn, text, binary)
  local user, room = conn.user, conn.params.room
  if binary or #text > TEXT_BYTES then return refused(conn, "send a text of at most " .. TEXT_BYTES .. " bytes") end
  local name = text:match("^/remove (.+)$")
  local allowed, why = may(user, name and "remove" or "write", room)
  if not allowed then return refused(conn, why) end
  if name then
    relay.user(name):disconnect(4403, "removed by " .. user.id)
    return
  end
  relay.room(room_of(conn)):publish_json({ type = "said", id = user.id, role = user.role, text = text })
end

function app.on_close(conn)
  conn:publish_json(room_of(conn), { type = "went", id = conn.user.id })
end

function app.on_load()
  assert(type(KEY) == "string" and #KEY >= 32, "set AUTH_SECRET to a key of 32 bytes or more")
  if not relay.env("AUTH_SECRET") then
    relay.log.warn("AUTH_SECRET is not set: tokens are signed with the example's key, which everybody knows")
  end
end

return app
