-- Who is it, and what may they do? Passwords, tokens (JWT, HS256), roles, and rules of single people.
--
--   POST /team/login   {"user": …, "password": …}  answers  {"token": …}
--   WebSocket /team/{room}?token=…                 (or Authorization: Bearer … outside a browser)
local users = require("users")
local credentials = require("moonwire.shape").of({ user = "string", password = "string" })
local app = {}

-- What each role may do. The relay itself asks for `join` and `publish`; `remove` and `grant` are this script's own.
local ROLES = {
  viewer = { "join team.lobby", "join team.news" },
  member = { "join team.lobby", "publish team.lobby", "join team.news" },
  admin = { "join team.*", "publish team.*", "remove team.*", "grant role.*" },
}
local DOES = { join = "enter", publish = "write in", remove = "remove people from", grant = "give the role" }

local KEY = relay.env("AUTH_SECRET") or relay.config.secret
local TOKEN_SECONDS = relay.config.token_seconds or 900
local TEXT_BYTES = 2000
-- The hash of a password that nobody knows: an unknown name costs the same work as a known one.
local NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$lGU/dSLNSByPF2nz1lbVCA$iDIU5qgYh6EgJeUK+BnKy3wIM9cqQPXchBTpcH5tCM8"

local function room_of(conn) return "team." .. relay.token(conn.params.room) end

-- What an admin has said since counts more than what the token says.
local function role_of(user) return relay.shared.get("role." .. user.id) or user.role end

local function rules(id, role)
  local all = table.clone(ROLES[role] or {})
  for _, rule in users[id] and users[id].allow or {} do table.insert(all, rule) end
  return all
end

-- The token carries a name and a role, and no lists: those are made from this script as it is now.
local function identity(id, role, expires_at)
  local user = { id = id, role = role, expires_at = expires_at, deny = users[id] and users[id].deny }
  user.role = role_of(user)
  user.allow = rules(id, user.role)
  return user
end

local function verified(token)
  local claims, why = relay.jwt.verify(token, { key = KEY, algorithms = { "HS256" }, audience = "team" })
  if not claims then return nil, ("log in again: " .. why):sub(1, 120) end
  return identity(claims.sub, claims.role, claims.exp)
end

-- ── logging in: plain HTTP on the same path ──
local function answer(status, value, headers)
  headers = headers or {}
  headers["content-type"], headers["cache-control"] = "application/json", "no-store"
  return { status = status, headers = headers, body = relay.json.encode(value) }
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
  local given = credentials(relay.json.decode(request.body))
  if not given then return answer(400, { why = "user and password must be strings" }) end
  local user = users[given.user]
  local fits = relay.password.verify(given.password, user and user.hash or NOBODY)
  if not (user and fits) then return answer(401, { why = "wrong name or password" }) end
  local now, role = math.floor(relay.now()), identity(given.user, user.role).role
  local token = relay.jwt.sign(
    { sub = given.user, role = role, aud = "team", iat = now, exp = now + TOKEN_SECONDS },
    { key = KEY, algorithm = "HS256" }
  )
  return answer(200, { token = token, role = role })
end

-- ── coming in ──
-- 4401 and 4403 complete the upgrade and close at once: a page in a browser sees only a close code
-- and its reason, never the HTTP status of a refused handshake.
function app.authenticate(request)
  local user, why = verified(request.bearer or request.query.token)
  return user or relay.refuse(4401, why)
end

-- Who may not is told by the role, unless it is for a reason of their own.
local function may_not(conn, action, resource)
  local _, rule = conn:can(action, resource)
  local who = rule == "no_rule" and "a " .. role_of(conn.user) or conn.user.id
  return (who .. " may not " .. DOES[action] .. " " .. resource:match("%.(.+)")):sub(1, 120)
end

function app.on_open(conn)
  local id, role, room = conn.user.id, role_of(conn.user), room_of(conn)
  if not conn:join(room) then return conn:close(4403, may_not(conn, "join", room)) end
  conn.state.came = true
  local may_write = conn:can("publish", room)
  conn:send_json({ type = "welcome", id = id, role = role, room = conn.params.room, may_write = may_write })
  -- By the script itself, which asks nobody's permission: a viewer comes and goes, and yet may not write.
  relay.room(room):publish_json({ type = "came", id = id, role = role }, { except = conn })
end

-- A change of rules has taken the room away.
function app.on_revoked(conn, room)
  conn:close(4403, may_not(conn, "join", room))
end

function app.on_close(conn)
  if conn.state.came then relay.room(room_of(conn)):publish_json({ type = "went", id = conn.user.id }) end
end

-- ── talking: a message is a text, or a command. Each returns why it was refused, if it was ──
local commands = {}

function commands.remove(conn, name)
  local room = room_of(conn)
  if not conn:can("remove", room) then return may_not(conn, "remove", room) end
  relay.user(name):disconnect(4403, "removed by " .. conn.user.id)
end

function commands.role(conn, rest)
  local name, role = rest:match("^(%S+) (%l+)$")
  if not name then return "write /role NAME ROLE" end
  if not conn:can("grant", "role." .. role) then return may_not(conn, "grant", "role." .. role) end
  if not users[name] or not ROLES[role] then return "there is no such person, or no such role" end
  assert(relay.shared.set("role." .. name, role)) -- for those who come later
  relay.user(name):set_allow(rules(name, role)) -- for those who are here: it is in force when this returns
  relay.broadcast_json({ type = "role", id = name, role = role, by = conn.user.id })
end

-- A newer token keeps the connection beyond the end of the one that it came with.
function commands.renew(conn, token)
  local user, why = verified(token)
  if not user then return why end
  if user.id ~= conn.user.id then return "this is the token of somebody else" end
  conn:identify(user)
  conn:send_json({ type = "renewed", expires_at = user.expires_at })
end

local function say(conn, text)
  local user, room = conn.user, room_of(conn)
  local said = { type = "said", id = user.id, role = role_of(user), text = text }
  if not conn:publish_json(room, said) then return may_not(conn, "publish", room) end
  conn:send_json(said)
end

function app.on_message(conn, text, binary)
  local name, rest = text:match("^/(%l+) (.+)$")
  local why = if binary or #text > TEXT_BYTES then "send a text of at most " .. TEXT_BYTES .. " bytes"
    elseif commands[name] then commands[name](conn, rest)
    else say(conn, text)
  if why then conn:send_json({ type = "refused", why = why }) end
end

-- ── the script itself ──
function app.on_load()
  assert(type(KEY) == "string" and #KEY >= 32, "set AUTH_SECRET to a key of 32 bytes or more")
  if not relay.env("AUTH_SECRET") then
    relay.log.warn("AUTH_SECRET is not set: tokens are signed with the example's key, which everybody knows")
  end
end

-- The lists of those who are connected were made by the code before: an edit of the rules counts at once.
function app.on_start(previous)
  for _, conn in previous and relay.connections() or {} do
    local user = conn.user
    conn:identify(identity(user.id, user.role, user.expires_at))
  end
end

return app
