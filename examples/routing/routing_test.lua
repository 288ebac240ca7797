-- Run with: moonwire test -c examples/routing/config.toml
local test = require("moonwire.test")

local SECRET = "a secret of this test"

-- ── who comes in ──

test.case("whoever says no name, or a wrong one, is refused in a way that a page sees", function()
  local app = test.app("routing")
  local refused = { code = 4400, reason = "say who you are: ?name=ada" }
  for _, query in { "", "?name=", "?name=a%20b", "?name=a.b", "?name=" .. ("x"):rep(33) } do
    test.equal(app:connect("/desk" .. query).refused, refused)
  end
  test.equal(app:connect("/desk?name=" .. ("x"):rep(32)).refused, nil)
end)

-- ── to one user ──

test.case("a private message reaches all connections of one user and nobody else", function()
  local app = test.app("routing", { instances = 2 })
  test.play(app, [[
    ada opens
    bob opens
    phone opens /desk?name=bob
    eve opens
    ada > {"type":"private","to":"bob","text":"hi","id":1}
    ada < {"type":"ack","id":1,"data":true}
    bob < {"type":"private","from":"ada","text":"hi"}
    phone < {"type":"private","from":"ada","text":"hi"}
  ]])
end)

test.case("a private message to somebody who is away is refused", function()
  local app = test.app("routing")
  test.play(app, [[
    ada opens
    bob opens
    bob closes 1000
    ada > {"type":"private","to":"bob","text":"hi","id":1}
    ada < {"type":"error","id":1,"error":"refused","message":"bob is not here"}
    -- Without an id there is no acknowledgement, but a mistake is told all the same.
    ada > {"type":"private","to":"bob","text":"hi"}
    ada < {"type":"error","error":"refused","message":"bob is not here"}
  ]])
end)

test.case("an id is handled once, also across a reload", function()
  local app = test.app("routing")
  test.play(app, [[
    ada opens
    bob opens
    ada > {"type":"private","to":"bob","text":"hi","id":"a-1"}
    ada < {"type":"ack","id":"a-1","data":true}
    bob < {"type":"private","from":"ada","text":"hi"}
    ada > {"type":"private","to":"bob","text":"hi","id":"a-1"}
    ada < {"type":"ack","id":"a-1","duplicate":true}
    reload
    ada > {"type":"private","to":"bob","text":"hi","id":"a-1"}
    ada < {"type":"ack","id":"a-1","duplicate":true}
  ]])
end)

test.case("what was refused is no duplicate: the peer may try the same id again", function()
  local app = test.app("routing")
  test.play(app, [[
    ada opens
    ada > {"type":"private","to":"bob","text":"hi","id":1}
    ada < {"type":"error","id":1,"error":"refused","message":"bob is not here"}
    bob opens
    ada > {"type":"private","to":"bob","text":"hi","id":1}
    ada < {"type":"ack","id":1,"data":true}
    bob < {"type":"private","from":"ada","text":"hi"}
  ]])
end)

-- ── to a room ──

test.case("a room hears what is said in it, its sender and those outside do not", function()
  local app = test.app("routing", { instances = 2 })
  test.play(app, [[
    ada opens
    bob opens
    eve opens
    ada > {"type":"join","room":"tea","id":1}
    ada < {"type":"ack","id":1,"data":true}
    bob > {"type":"join","room":"tea"}
    ada > {"type":"say","room":"tea","text":"ready"}
    bob < {"type":"say","room":"tea","from":"ada","text":"ready"}
    eve > {"type":"say","room":"tea","text":"me too"}
    eve < {"type":"error","error":"refused","message":"join the room first"}
    bob > {"type":"leave","room":"tea"}
    ada > {"type":"say","room":"tea","text":"is anybody here?"}
    bob > {"type":"leave","room":"tea","id":2}
    bob < {"type":"error","id":2,"error":"refused","message":"not_member"}
  ]])
end)

test.case("the members of a room stay in it across a reload", function()
  local app = test.app("routing")
  local ada, bob = app:connect("/desk?name=ada"), app:connect("/desk?name=bob")
  ada:send_json({ type = "join", room = "tea" })
  bob:send_json({ type = "join", room = "tea" })
  test.equal(app:reload().ok, true)
  test.equal(bob:rooms(), { "room.tea" })
  ada:send_json({ type = "say", room = "tea", text = "ready" })
  test.equal(bob:receive_json(), { type = "say", room = "tea", from = "ada", text = "ready" })
  test.silent(ada, bob)
end)

test.case("what a peer calls a room cannot name another one, nor all of them", function()
  local app = test.app("routing")
  local ada, bob = app:connect("/desk?name=ada"), app:connect("/desk?name=bob")
  for _, room in { "*", ">", "a.b", "zażółć" } do
    ada:send_json({ type = "join", room = room, id = room })
    test.equal(ada:receive_json(), { type = "ack", id = room, data = true })
  end
  bob:send_json({ type = "join", room = "tea" })
  bob:send_json({ type = "say", room = "tea", text = "ready" })
  test.silent(ada, bob)
end)

test.case("a room's name has 1 to 64 bytes and a text 1 to 500", function()
  local app = test.app("routing")
  local ada = app:connect("/desk?name=ada")
  local function told(message)
    ada:send_json(message)
    local answer = ada:receive_json()
    return answer and answer.message
  end
  test.equal(told({ type = "join", room = ("x"):rep(64) }), nil)
  test.equal(told({ type = "join", room = ("x"):rep(65) }), "room must have at most 64 bytes")
  test.equal(told({ type = "join", room = "" }), "room must have at least 1 bytes")
  test.equal(told({ type = "join" }), "room is missing")
  test.equal(told({ type = "join", room = 7 }), "room must be a string")
  test.equal(told({ type = "private", to = "ada", text = ("x"):rep(501) }), "text must have at most 500 bytes")
  test.silent(ada)
end)

-- ── a question ──

test.case("a question waits for its reply, and others are served meanwhile", function()
  local app = test.app("routing")
  test.play(app, [[
    ada opens
    bob opens
    eve opens
    ada > {"type":"ask","of":"bob","question":"milk?","id":3}
    bob < {"type":"question","id":"q1.1","from":"ada","question":"milk?"}
    4s pass
    eve > {"type":"private","to":"bob","text":"say yes"}
    bob < {"type":"private","from":"eve","text":"say yes"}
    -- Nobody can reply in the place of the one who was asked.
    eve > {"type":"reply","id":"q1.1","data":"no milk"}
    bob > {"type":"reply","id":"q1.1","data":"please"}
    ada < {"type":"ack","id":3,"data":"please"}
  ]])
end)

test.case("who does not reply within 5 seconds is not waited for", function()
  local app = test.app("routing")
  local ada, bob = app:connect("/desk?name=ada"), app:connect("/desk?name=bob")
  ada:send_json({ type = "ask", of = "bob", question = "milk?", id = 3 })
  local question = bob:receive_json()
  app:advance(4.9)
  test.silent(ada)
  app:advance(0.2)
  test.equal(ada:receive_json(), { type = "error", id = 3, error = "refused", message = "timeout" })
  bob:send_json({ type = "reply", id = question.id, data = "please" })
  test.silent(ada, bob) -- a late reply is for nobody
end)

test.case("an asked peer who goes, or says that it cannot, ends the question", function()
  local app = test.app("routing")
  test.play(app, [[
    ada opens
    bob opens
    ada > {"type":"ask","of":"bob","question":"milk?","id":1}
    bob < {"type":"question","id":"q1.1","from":"ada","question":"milk?"}
    bob > {"type":"error","id":"q1.1","message":"no idea"}
    ada < {"type":"error","id":1,"error":"refused","message":"no idea"}
    ada > {"type":"ask","of":"bob","question":"sugar?","id":2}
    bob < {"type":"question","id":"q1.2","from":"ada","question":"sugar?"}
    bob vanishes
    ada < {"type":"error","id":2,"error":"refused","message":"closed"}
  ]])
end)

test.case("nobody can ask who is away, or themselves", function()
  local app = test.app("routing")
  test.play(app, [[
    ada opens
    ada > {"type":"ask","of":"bob","question":"milk?","id":1}
    ada < {"type":"error","id":1,"error":"refused","message":"bob cannot be asked"}
    ada > {"type":"ask","of":"ada","question":"milk?","id":2}
    ada < {"type":"error","id":2,"error":"refused","message":"ada cannot be asked"}
  ]])
end)

-- ── what is wrong ──

test.case("every wrong message is answered with what is wrong with it", function()
  local app = test.app("routing")
  test.play(app, [[
    ada opens
    ada > {"type":"sing","id":1}
    ada < {"type":"error","id":1,"error":"unknown_type","message":"there is no type \"sing\""}
    ada > {"type":"say","room":"tea","text":5}
    ada < {"type":"error","error":"bad_field","field":"text","message":"text must be a string"}
    ada > []
    ada < {"type":"error","error":"bad_message","message":"a message must be an object with a type"}
    ada > {"type":"say","id":{}}
    ada < {"type":"error","error":"bad_field","field":"id","message":"id must be a number or a string of at most 64 bytes"}
  ]])
  local eve = app:connect("/desk?name=eve")
  eve:send("{")
  test.equal(eve:receive_json().error, "bad_json")
  eve:send("\1\2\3", true)
  test.equal(eve:receive_json().error, "bad_message")
end)

-- ── the backend ──

local function announce(app, body, bearer, method)
  local answer = app:request({
    method = method or "POST",
    path = "/desk",
    headers = { authorization = "Bearer " .. (bearer or SECRET) },
    body = type(body) == "table" and relay.json.encode(body) or body,
  })
  test.equal(answer.headers["content-type"], "application/json")
  return answer.status, relay.json.decode(answer.body)
end

test.case("an announcement of the backend reaches everybody, or the one whom it names", function()
  local app = test.app("routing", { settings = { secret = SECRET }, instances = 2 })
  local ada, bob = app:connect("/desk?name=ada"), app:connect("/desk?name=bob")
  test.equal({ announce(app, { text = "closing at six" }) }, { 200, { ok = true } })
  test.equal({ announce(app, { text = "your tea is cold", to = "bob" }) }, { 200, { ok = true } })
  test.equal(ada:receive_json(), { type = "announcement", text = "closing at six" })
  test.equal(bob:receive_json(), { type = "announcement", text = "closing at six" })
  test.equal(bob:receive_json(), { type = "announcement", text = "your tea is cold" })
  test.silent(ada, bob)
end)

test.case("an announcement with a wrong secret, method or body is heard by nobody", function()
  local app = test.app("routing", { settings = { secret = SECRET } })
  local ada = app:connect("/desk?name=ada")
  local hi = { text = "hi" }
  test.equal({ announce(app, hi, "a guess") }, { 401, { why = "wrong secret" } })
  test.equal({ announce(app, hi, SECRET:sub(1, -2)) }, { 401, { why = "wrong secret" } })
  test.equal({ announce(app, hi, SECRET .. "x") }, { 401, { why = "wrong secret" } })
  test.equal(app:request({ method = "POST", path = "/desk", body = [[{"text":"hi"}]] }).status, 401)
  test.equal({ announce(app, hi, SECRET, "GET") }, { 405, { why = "POST an announcement" } })
  test.equal({ announce(app, "hi") }, { 400, { why = "must be an object" } })
  test.equal({ announce(app, {}) }, { 400, { why = "text is missing" } })
  test.equal({ announce(app, { text = "" }) }, { 400, { why = "text must have at least 1 bytes" } })
  test.equal({ announce(app, { text = "hi", to = 7 }) }, { 400, { why = "to must be a string" } })
  test.silent(ada)
end)
