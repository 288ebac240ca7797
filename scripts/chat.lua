-- The chat that the relay serves out of the box: open http://127.0.0.1:8080/ twice and talk.
--
-- Save this file while people are connected: the new code handles their next message, and nobody
-- is disconnected. A mistake in it changes nothing; the relay's log tells the line.
local files = require("files")
local app = {}

-- ╭─ Change me ───────────────────────────────────────────────────────────────────────────────╮
local GREETING = "Welcome! Edit scripts/chat.lua and save: this line changes for everybody at once."

-- What follows "/name " in a text goes through its function: "/shout hello" says "HELLO!".
local commands = {
  shout = function(text) return text:upper() .. "!" end,
  shrug = function(text) return text .. " ¯\\_(ツ)_/¯" end,
}
-- ╰───────────────────────────────────────────────────────────────────────────────────────────╯

local TEXT_BYTES = 4000
local TEXT_RATE = { per_second = 3, burst = 12 } -- of one connection
local PEOPLE_SHOWN = 500

-- What a page may send as JSON: each type's fields, all required, and no others.
local shapes = {
  text = { text = "string", ref = "number" }, -- `ref` comes back to its sender, to tell what arrived
  typing = { on = "boolean" },
  file = { name = "string", mime = "string", size = "number" },
  cancel = {},
}

local function read(data)
  local message, why = relay.json.decode(data)
  if message == nil then return nil, why end
  local shape = type(message) == "table" and shapes[message.type]
  if not shape then return nil, "a message's type is text, typing, file or cancel" end
  for field, kind in pairs(shape) do
    if type(message[field]) ~= kind then return nil, field .. " must be a " .. kind end
  end
  for field in pairs(message) do
    if field ~= "type" and not shape[field] then return nil, "unknown field in " .. message.type end
  end
  return message
end

local function fail(conn, why, ref)
  conn:send_json({ type = "error", why = why, ref = ref })
end

-- A name that cannot disturb the page: no control, zero-width or direction-changing characters
-- (they would let "gpj.exe" pose as "exe.jpg"), no runs of blanks, at most `most` characters.
local function clean(name, most, instead)
  if not name or not utf8.len(name) then return instead end
  name = name:gsub("\226\128[\139-\143\168-\174]", ""):gsub("\226\129[\160-\175]", "")
  name = name:gsub("[%c%s]+", " "):match("^ ?(.-) ?$")
  local cut = utf8.offset(name, most + 1)
  if cut then name = name:sub(1, cut - 1) end
  return name ~= "" and name or instead
end

-- ── what a page may ask ──
local handlers = {}

function handlers.text(conn, message)
  local calm = relay.rate("text:" .. conn.id, TEXT_RATE)
  if not calm then return fail(conn, "too many texts, wait a moment", message.ref) end
  if #message.text > TEXT_BYTES or not message.text:find("%S") then
    return fail(conn, "a text has 1 to " .. TEXT_BYTES .. " bytes", message.ref)
  end
  local command, rest = message.text:match("^/(%l+) ?(.*)$")
  local text = commands[command] and commands[command](rest) or message.text
  local said = { type = "text", from = conn.id, name = conn.state.name, text = text, at = relay.now() }
  conn:publish_json(conn.state.room, said)
  said.ref = message.ref
  conn:send_json(said)
end

function handlers.typing(conn, message)
  if not relay.rate("typing:" .. conn.id, { per_second = 2, burst = 6 }) then return end
  conn:publish_json(conn.state.room, { type = "typing", from = conn.id, on = message.on })
end

function handlers.file(conn, message)
  message.name = clean(message.name, 100, "file")
  local begun, why = files.begin(conn, message)
  if not begun then fail(conn, why) end
end

function handlers.cancel(conn)
  files.cancel(conn)
end

-- ── callbacks ──
function app.authenticate(request)
  if #relay.token(request.params.room) > 200 then return relay.refuse(1008, "the room's name is too long") end
  return true -- everybody may come in; examples/auth shows how to ask who it is
end

-- members() tells this instance's own, and with one instance (the default) these are all. With
-- more, set shard_by = "params.room" in the config: it keeps each room in one instance.
function app.on_open(conn)
  local state = conn.state
  state.name = clean(conn.query.name, 32, "guest")
  state.room = "chat." .. relay.token(conn.params.room)
  conn:join(state.room)
  local people = relay.json.array({})
  for _, member in ipairs(relay.room(state.room):members()) do
    if #people < PEOPLE_SHOWN then table.insert(people, { id = member.id, name = member.state.name }) end
  end
  conn:send_json({ type = "hello", id = conn.id, name = state.name, greeting = GREETING, people = people })
  conn:publish_json(state.room, { type = "joined", id = conn.id, name = state.name })
end

function app.on_message(conn, data, binary)
  if binary then
    local taken, why = files.chunk(conn, data)
    if not taken then fail(conn, why) end
    return
  end
  local message, why = read(data)
  if not message then return fail(conn, why) end
  handlers[message.type](conn, message)
end

function app.on_close(conn)
  files.cancel(conn)
  conn:publish_json(conn.state.room, { type = "left", id = conn.id, name = conn.state.name })
end

function app.on_error(conn, err)
  if conn then fail(conn, "the chat's script failed at this; the relay's log tells where") end
end

-- After a reload `previous` tells of the code before: say hello again, so that the change is seen.
function app.on_start(previous)
  if previous and relay.instance.index == 1 then relay.broadcast_json({ type = "notice", text = GREETING }) end
end

return app
