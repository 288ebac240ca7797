-- nginx with Lua: lua-resty-websocket, one worker. A connection can only be written to by its own request, so each has a
-- queue, and a thread of its own that writes what others have put there.
local cjson = require "cjson.safe"
local semaphore = require "ngx.semaphore"
local websocket = require "resty.websocket.server"

local rooms = {}
local module = {}

local function send(socket, kind, data)
  if kind == "text" then
    return socket:send_text(data)
  end
  return socket:send_binary(data)
end

-- Calls `heard` for each message, and answers pings, until the peer leaves.
local function receive(socket, heard)
  while true do
    local data, kind, err = socket:recv_frame()
    if kind == "text" or kind == "binary" then
      heard(data, kind)
    elseif kind == "ping" then
      socket:send_pong(data)
    elseif kind == "close" or not err or not err:find("timeout", 1, true) then
      return
    end
  end
end

local function write(socket, member)
  while true do
    member.waiting:wait(3600)
    -- Others put more there while this one writes.
    while member.sent < member.last do
      local place = member.sent + 1
      local message = member.queue[place]
      member.queue[place] = nil
      member.sent = place
      if not send(socket, message[1], message[2]) then
        return
      end
    end
  end
end

local function put(member, message)
  member.last = member.last + 1
  member.queue[member.last] = message
  if member.last == member.sent + 1 then
    member.waiting:post(1)
  end
end

function module.serve()
  local socket, err = websocket:new { timeout = 3600 * 1000, max_payload_len = 32 * 1024 * 1024 }
  if not socket then
    ngx.log(ngx.ERR, "no handshake: ", err)
    return ngx.exit(426)
  end
  local path = ngx.var.uri
  if path == "/echo" then
    return receive(socket, function(data, kind)
      send(socket, kind, data)
    end)
  end
  local is_json = path:sub(1, 6) == "/json/"
  local me = { queue = {}, sent = 0, last = 0, waiting = semaphore.new() }
  local room = rooms[path] or {}
  rooms[path] = room
  room[me] = true
  local writer = ngx.thread.spawn(write, socket, me)
  receive(socket, function(data, kind)
    if is_json then
      local message = cjson.decode(data)
      message.hops = message.hops + 1
      data = cjson.encode(message)
    end
    local message = { kind, data }
    for member in pairs(room) do
      if member ~= me then
        put(member, message)
      end
    end
  end)
  room[me] = nil
  ngx.thread.kill(writer)
end

return module
