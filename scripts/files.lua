-- How chat.lua passes on files: in chunks, as fast as the slowest who takes part can read.
--
-- The sender asks ("file"), is told a key ("go") and sends binary chunks: four bytes of key, then
-- at most CHUNK_BYTES of the file, in order. Those in the room at that moment follow the file in a
-- room of its own. A chunk is passed on once every follower has room for it, and acknowledged then:
-- so the slowest sets the pace, no outbox overflows, and a sender that does not wait for "ack" is
-- not read from. Who makes no room within PATIENCE loses this file and keeps the connection.
local files = {}

local FILE_BYTES = 16 * 1024 * 1024
local CHUNK_BYTES = 64 * 1024
local WINDOW = 8 -- chunks that a page sends ahead of their "ack": half of limits.inbox (1 MiB)
local FULL = 512 * 1024 -- half of limits.outbox (1 MiB): the other half stays free for texts
local PATIENCE = 2 -- seconds that one chunk waits, so a follower needs 32 KiB a second

local function finish(file, why)
  local room = relay.room(file.room)
  room:publish_json({ type = "file_end", key = file.key, why = why })
  for _, member in ipairs(room:members()) do member:leave(file.room) end
end

local function wait_for_the_slow(file)
  local deadline = relay.monotonic() + PATIENCE
  while true do
    local late, waiting = relay.monotonic() >= deadline, false
    for _, member in ipairs(relay.room(file.room):members()) do
      if member:buffered() > FULL then
        waiting = true
        if late then
          member:leave(file.room)
          member:send_json({ type = "file_end", key = file.key, why = "the sender is too fast for your connection" })
        end
      end
    end
    if late or not waiting then return end
    relay.sleep(0.02)
  end
end

-- Begins the file that `message` announces. True, or false and why not.
function files.begin(conn, message)
  local size = message.size
  if conn.state.file then return false, "one file at a time" end
  if size % 1 ~= 0 or size < 1 or size > FILE_BYTES then return false, "a file has 1 byte to 16 MiB" end
  local key = (relay.state.files or 0) + 1
  relay.state.files = key
  local file = { key = key, room = conn.state.room .. ".file." .. key, size = size, got = 0 }
  conn.state.file = file
  for _, member in ipairs(relay.room(conn.state.room):members()) do
    if member.id ~= conn.id then member:join(file.room) end
  end
  relay.room(file.room):publish_json({
    type = "file", key = key, from = conn.id, by = conn.state.name, at = relay.now(),
    name = message.name, size = size,
    mime = message.mime:sub(1, 100):match("^%w+/[%w.+-]+$") or "application/octet-stream",
  })
  conn:send_json({ type = "go", key = key, chunk = CHUNK_BYTES, window = WINDOW })
  return true
end

-- Passes on one chunk, when there is room for it. True, or false and why not.
function files.chunk(conn, data)
  local file, bytes = conn.state.file, #data - 4
  local fits = file and bytes >= 1 and bytes <= CHUNK_BYTES and file.got + bytes <= file.size
  if not fits or string.unpack(">I4", data) ~= file.key then
    return false, "this chunk belongs to no file that you are sending"
  end
  file.got = file.got + bytes
  if file.got == file.size then conn.state.file = nil end
  -- During the wait a reload may carry conn.state away: what follows uses a copy, and writes nothing.
  file = table.clone(file)
  wait_for_the_slow(file)
  relay.room(file.room):publish(data, { binary = true })
  conn:send_json({ type = "ack", key = file.key, got = file.got })
  if file.got == file.size then finish(file) end
  return true
end

-- Ends the file that this connection sends, if it sends one.
function files.cancel(conn)
  local file = conn.state.file
  conn.state.file = nil
  if file then finish(file, "the sender stopped") end
end

return files
