-- Run with: moonwire test
local test = require("moonwire.test")

-- Somebody in a room, and what `hello` told; `others` have read that somebody joined.
local function enter(app, name, room, others)
  local peer = app:connect(`/chat/{room or "lobby"}?name={name}`)
  local hello = peer:receive_json()
  test.equal(hello.type, "hello")
  for _, other in others or {} do test.equal(other:receive_json().type, "joined") end
  return peer, hello
end

local function names(hello)
  local names = {}
  for _, person in hello.people do table.insert(names, person.name) end
  table.sort(names)
  return names
end

local function why(peer)
  local message = peer:receive_json()
  return message and message.type == "error" and message.why
end

-- ── coming and going ──

test.case("who comes is told who is there, and the others that somebody has come and gone", function()
  local app = test.app("chat")
  local ann, hello = enter(app, "Ann")
  test.equal({ hello.id, hello.name, names(hello) }, { ann.id, "Ann", { "Ann" } })
  test.equal(hello.greeting:sub(1, 8), "Welcome!")
  local bob, his = enter(app, "Bob")
  test.equal(names(his), { "Ann", "Bob" })
  test.equal(ann:receive_json(), { type = "joined", id = bob.id, name = "Bob" })
  bob:close()
  test.equal(ann:receive_json(), { type = "left", id = bob.id, name = "Bob" })
  test.silent(ann, bob)
end)

test.case("who vanishes without a close has left as well", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  bob:drop()
  test.equal(ann:receive_json(), { type = "left", id = bob.id, name = "Bob" })
end)

test.case("two people of the same name are two people", function()
  local app = test.app("chat")
  local one = enter(app, "Ann")
  local two, hello = enter(app, "Ann", "lobby", { one })
  test.equal(names(hello), { "Ann", "Ann" })
  test.equal(one.id ~= two.id, true)
end)

test.case("rooms are kept apart, whatever they are called", function()
  local app = test.app("chat")
  -- Patterns, dots and encoded bytes are names like any other.
  local peers = {}
  for _, room in { "lobby", "%2A", "%3E", "a.b", "a", "%00", "Lobby" } do
    local peer, hello = enter(app, "Ann", room)
    test.equal(names(hello), { "Ann" })
    table.insert(peers, peer)
  end
  peers[1]:send_json({ type = "text", text = "hello", ref = 1 })
  test.equal(peers[1]:receive_json().text, "hello")
  test.silent(unpack(peers))
end)

test.case("a room whose name is too long is refused in a way that a page sees", function()
  local app = test.app("chat")
  test.equal(app:connect("/chat/" .. ("x"):rep(200)).refused, nil)
  test.equal(app:connect("/chat/" .. ("x"):rep(201)).refused, { code = 1008, reason = "the room's name is too long" })
  -- What counts is its length as a token, in which other bytes take three.
  test.equal(app:connect("/chat/" .. ("%20"):rep(67)).refused.code, 1008)
end)

test.case("every name is made harmless", function()
  local app = test.app("chat")
  for given, shown in {
    [""] = "guest",
    ["%20%20"] = "guest",
    ["%FF%FE"] = "guest", -- no UTF-8
    ["%E2%80%8B"] = "guest", -- nothing but a space of no width
    ["gpj%E2%80%AEexe"] = "gpjexe", -- a change of direction
    ["a%00%0A%20b"] = "a b",
    ["%20Ann%20"] = "Ann",
    ["%C5%BB%C3%B3%C5%82w"] = "Żółw",
    [("x"):rep(50)] = ("x"):rep(32),
    [("%C5%BB"):rep(33)] = ("Ż"):rep(32), -- characters count, and not bytes
  } do
    local ann, hello = enter(app, given)
    test.equal({ given, hello.name }, { given, shown })
    ann:close()
  end
  test.equal(app:connect("/chat/lobby"):receive_json().name, "guest")
end)

-- ── texts ──

test.case("a text reaches everybody in the room, and its sender with the mark", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  bob:send_json({ type = "text", text = "hi <b>", ref = 7 })
  local said = { type = "text", from = bob.id, name = "Bob", text = "hi <b>", at = relay.now() }
  test.equal(ann:receive_json(), said)
  said.ref = 7
  test.equal(bob:receive_json(), said)
  test.silent(ann, bob)
end)

test.case("texts reach a room across instances", function()
  local app = test.app("chat", { instances = 2 })
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  ann:send_json({ type = "text", text = "hi", ref = 1 })
  test.equal(bob:receive_json().text, "hi")
  bob:close()
  ann:receive() -- her own text
  test.equal(ann:receive_json(), { type = "left", id = bob.id, name = "Bob" })
end)

test.case("a command changes what is said, and an unknown one is said as it is", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  for typed, said in {
    ["/shout hello"] = "HELLO!",
    ["/shout"] = "!",
    ["/shrug who knows"] = "who knows ¯\\_(ツ)_/¯",
    ["/nothing like it"] = "/nothing like it",
    ["not /shout"] = "not /shout",
  } do
    ann:send_json({ type = "text", text = typed, ref = 1 })
    test.equal(ann:receive_json().text, said)
  end
end)

test.case("a text has 1 to 4000 bytes, and something in it", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  for _, text in { "", "  \n", ("x"):rep(4001) } do
    ann:send_json({ type = "text", text = text, ref = 5 })
    test.equal(ann:receive_json(), { type = "error", why = "a text has 1 to 4000 bytes", ref = 5 })
  end
  test.silent(bob)
  ann:send_json({ type = "text", text = ("x"):rep(4000), ref = 6 })
  test.equal(#bob:receive_json().text, 4000)
end)

test.case("who sends too many texts is slowed down, and nobody else with them", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  local function texts(peer, count)
    local arrived = 0
    for n = 1, count do
      peer:send_json({ type = "text", text = "x", ref = n })
      local answer = peer:receive_json()
      test.equal(answer.ref, n)
      if answer.type == "text" then
        arrived += 1
      else
        test.equal(answer.why, "too many texts, wait a moment")
      end
    end
    return arrived
  end
  test.equal(texts(ann, 20), 12) -- the burst
  for _ = 1, 12 do test.equal(bob:receive_json().type, "text") end
  test.equal(texts(bob, 1), 1)
  ann:receive()
  app:advance(1)
  test.equal(texts(ann, 20), 3) -- three each second
  app:advance(60)
  test.equal(texts(ann, 20), 12)
end)

test.case("the others are told who types, and not too often", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  for _, on in { true, false } do
    bob:send_json({ type = "typing", on = on })
    test.equal(ann:receive_json(), { type = "typing", from = bob.id, on = on })
  end
  for _ = 1, 20 do bob:send_json({ type = "typing", on = true }) end
  for _ = 1, 4 do test.equal(ann:receive_json().type, "typing") end
  test.silent(ann, bob)
end)

test.case("every wrong message is told what is wrong with it, and the script never raises", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  local no_type = "a message's type is text, typing, file or cancel"
  for message, expected in {
    ["null"] = no_type,
    ["7"] = no_type,
    ["[]"] = no_type,
    ["{}"] = no_type,
    [ [[{"type":7}]] ] = no_type,
    [ [[{"type":["text"]}]] ] = no_type,
    [ [[{"type":"shout"}]] ] = no_type,
    [ [[{"type":"__index"}]] ] = no_type,
    [ [[{"type":"text","text":7,"ref":1}]] ] = "text must be a string",
    [ [[{"type":"text","text":null,"ref":1}]] ] = "text must be a string",
    [ [[{"type":"text","text":"x","ref":"1"}]] ] = "ref must be a number",
    [ [[{"type":"text","text":"x","ref":1,"more":1}]] ] = "unknown field in text",
    [ [[{"type":"typing","on":"yes"}]] ] = "on must be a boolean",
    [ [[{"type":"cancel","key":1}]] ] = "unknown field in cancel",
  } do
    ann:send(message)
    test.equal({ message, why(ann) }, { message, expected })
  end
  for _, message in { "", "hello", "\0", [[{"type":]], ("["):rep(100) .. ("]"):rep(100) } do
    ann:send(message)
    test.equal(type(why(ann)), "string")
  end
  test.equal(ann.closed, nil)
  for _, line in app:log() do test.equal(line.level ~= "error", true) end
  test.silent(ann, bob)
end)

-- ── files ──

local CHUNK = 64 * 1024

local function announce(peer, name, size, mime)
  peer:send_json({ type = "file", name = name, mime = mime or "image/png", size = size })
end

-- The key of a file that has been announced, and may be sent now.
local function go(peer)
  local message = peer:receive_json()
  test.equal({ message.type, message.chunk, message.window }, { "go", CHUNK, 8 })
  return message.key
end

local function chunk(key, bytes) return string.pack(">I4", key) .. bytes end

test.case("a file is passed on in chunks, each of which is acknowledged", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  announce(ann, "evening\u{202E}.png", CHUNK + 10)
  local key = go(ann)
  test.equal(bob:receive_json(), {
    type = "file", key = key, from = ann.id, by = "Ann", at = relay.now(),
    name = "evening.png", size = CHUNK + 10, mime = "image/png",
  })
  -- Who comes later does not get the rest of it.
  local cid = enter(app, "Cid", "lobby", { ann, bob })
  for _, piece in { ("a"):rep(CHUNK), ("b"):rep(10) } do
    ann:send(chunk(key, piece), true)
    local data, binary = bob:receive()
    test.equal(data == chunk(key, piece) and binary, true)
  end
  test.equal(ann:receive_json(), { type = "ack", key = key, got = CHUNK })
  test.equal(ann:receive_json(), { type = "ack", key = key, got = CHUNK + 10 })
  test.equal(bob:receive_json(), { type = "file_end", key = key })
  test.silent(ann, bob, cid)
  test.equal(bob:rooms(), { "chat.lobby" })
end)

test.case("the next file has another key, and goes to those who are there by then", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  announce(ann, "first", 1)
  local first = go(ann)
  ann:send(chunk(first, "x"), true)
  test.equal(ann:receive_json().type, "ack")
  local bob = enter(app, "Bob", "lobby", { ann })
  announce(ann, "second", 1)
  local second = go(ann)
  test.equal(second ~= first, true)
  test.equal(bob:receive_json().key, second)
end)

test.case("a file that its sender cancels, or who goes, has ended for those who follow it", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  announce(ann, "one", 10)
  test.equal(bob:receive_json().name, "one")
  ann:send_json({ type = "cancel" })
  test.equal(bob:receive_json(), { type = "file_end", key = go(ann), why = "the sender stopped" })
  ann:send_json({ type = "cancel" }) -- nothing to cancel any more
  announce(ann, "two", 10)
  test.equal(bob:receive_json().name, "two")
  ann:drop()
  test.equal(bob:receive_json().why, "the sender stopped")
  test.equal(bob:receive_json().type, "left")
  test.silent(bob)
end)

test.case("a file has 1 byte to 16 MiB, and its sender one at a time", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  for _, size in { 0, -1, 1.5, 16 * 1024 * 1024 + 1, 2 ^ 53 } do
    announce(ann, "x", size)
    test.equal({ size, why(ann) }, { size, "a file has 1 byte to 16 MiB" })
  end
  announce(ann, "x", 16 * 1024 * 1024)
  go(ann)
  announce(ann, "y", 1)
  test.equal(why(ann), "one file at a time")
end)

test.case("a name or a type of a file that could mislead is replaced", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  for _, try in {
    { "", "image/png", "file", "image/png" },
    { "a\nb", "text/html; charset=x", "a b", "application/octet-stream" },
    { ("x"):rep(101), "", ("x"):rep(100), "application/octet-stream" },
    { "x", "image/svg+xml", "x", "image/svg+xml" },
    { "x", "text/" .. ("x"):rep(200), "x", "text/" .. ("x"):rep(95) },
  } do
    announce(ann, try[1], 1, try[2])
    local told = bob:receive_json()
    test.equal({ told.name, told.mime }, { try[3], try[4] })
    ann:send_json({ type = "cancel" })
    test.equal(bob:receive_json().type, "file_end")
  end
end)

test.case("a chunk that belongs to no file is passed on to nobody", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  local function refused(data)
    ann:send(data, true)
    test.equal(why(ann), "this chunk belongs to no file that you are sending")
  end
  refused("")
  refused(chunk(1, "x"))
  announce(ann, "x", 10)
  local key = go(ann)
  bob:receive() -- that a file comes
  refused("") -- no key
  refused("\0\0\0")
  refused(chunk(key, "")) -- no bytes
  refused(chunk(key + 1, "x")) -- another key
  refused(chunk(key, ("x"):rep(11))) -- more than was announced
  -- Nobody can send a file in the place of its sender.
  bob:send(chunk(key, "x"), true)
  test.equal(why(bob), "this chunk belongs to no file that you are sending")
  test.silent(ann, bob)
  ann:send(chunk(key, ("x"):rep(10)), true)
  test.equal(ann:receive_json().type, "ack")
  refused(chunk(key, "x")) -- behind its end
  announce(ann, "y", CHUNK * 2)
  refused(chunk(go(ann), ("x"):rep(CHUNK + 1))) -- more than a chunk has
end)

-- ── reloading ──

test.case("a reload keeps people, rooms and a file that is under way, and says hello again", function()
  local app = test.app("chat")
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  announce(ann, "x", 2)
  local key = go(ann)
  bob:receive() -- that a file comes
  ann:send(chunk(key, "a"), true)
  test.equal(bob:receive(), chunk(key, "a"))
  test.equal(app:reload(), { ok = true, from = 1, generation = 2 })
  test.equal(bob:receive_json().type, "notice")
  test.equal({ ann.closed, bob.closed }, {})
  ann:send(chunk(key, "b"), true)
  test.equal(bob:receive(), chunk(key, "b"))
  test.equal(bob:receive_json(), { type = "file_end", key = key })
  test.equal(names(select(2, enter(app, "Cid"))), { "Ann", "Bob", "Cid" })
end)

test.case("a reload says hello once, however many instances there are", function()
  local app = test.app("chat", { instances = 2 })
  local ann = enter(app, "Ann")
  local bob = enter(app, "Bob", "lobby", { ann })
  test.equal(app:reload().ok, true)
  test.equal({ ann:receive_json().type, bob:receive_json().type }, { "notice", "notice" })
  test.silent(ann, bob)
end)
