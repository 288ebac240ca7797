-- Run with: moonwire test -c examples/auth/config.toml
local test = require("moonwire.test")

local function post(app, body, options)
  options = options or {}
  local answer = app:request({
    method = options.method or "POST",
    path = options.path or "/team/login",
    headers = { ["content-type"] = options.content_type or "application/json" },
    body = body,
  })
  return answer.status, relay.json.decode(answer.body), answer.headers
end

local function log_in(app, user, password)
  return post(app, relay.json.encode({ user = user, password = password or user .. "-secret" }))
end

local function token(app, user)
  local status, answer = log_in(app, user)
  test.equal(status, 200)
  return answer.token
end

local function come_in(app, user, room)
  return app:connect(`/team/{room or "lobby"}?token={token(app, user)}`)
end

-- Somebody who is in the room and has read their welcome; `others` have read that somebody came.
local function settled(app, user, others)
  local peer = come_in(app, user)
  test.equal(peer:receive_json().type, "welcome")
  for _, other in others or {} do test.equal(other:receive_json().type, "came") end
  return peer
end

-- ── logging in ──

test.case("the right password gives a token of the person's role, and nothing else about them", function()
  local app = test.app("auth", { settings = { token_seconds = 60 } })
  for user, role in { ada = "admin", max = "member", vic = "viewer" } do
    local status, answer, headers = log_in(app, user)
    test.equal({ status, answer.role, headers["cache-control"] }, { 200, role, "no-store" })
    local claims = relay.json.decode(relay.base64.decode(answer.token:split(".")[2], { url = true }))
    local now = math.floor(relay.now())
    test.equal(claims, { sub = user, role = role, aud = "team", iat = now, exp = now + 60 })
  end
end)

test.case("a wrong password and an unknown name get the same answer", function()
  local app = test.app("auth")
  local refused = { 401, { why = "wrong name or password" } }
  for _, try in { { "max", "max" }, { "max", "" }, { "max", "vic-secret" }, { "MAX", "max-secret" }, { "", "" } } do
    local status, answer = log_in(app, try[1], try[2])
    test.equal({ status, answer }, refused)
  end
  -- The password of nobody: a name that is not there has no password that fits.
  local status, answer = log_in(app, "nobody", ("x"):rep(2000))
  test.equal({ status, answer }, refused)
end)

test.case("what is no login is refused before any password is looked at", function()
  local app = test.app("auth")
  local wrong = { why = "user and password must be strings" }
  for _, body in { "", "no JSON", "[]", "null", "{}", [[{"user":7,"password":[]}]], [[{"user":"ada"}]] } do
    local status, answer = post(app, body)
    test.equal({ status, answer }, { 400, wrong })
  end
  local status, _, headers = post(app, "{}", { method = "GET" })
  test.equal({ status, headers.allow }, { 405, "POST" })
  test.equal((post(app, "{}", { path = "/team/lobby" })), 404)
  test.equal((post(app, "user=ada", { content_type = "application/x-www-form-urlencoded" })), 415)
end)

test.case("who tries often has to wait, even with the right password", function()
  local app = test.app("auth")
  for _ = 1, 10 do test.equal((log_in(app, "ada", "a guess")), 401) end
  local status, answer, headers = log_in(app, "ada")
  test.equal({ status, answer }, { 429, { why = "too many tries, wait a moment" } })
  app:advance(tonumber(headers["retry-after"]))
  test.equal((log_in(app, "ada")), 200)
  test.equal((log_in(app, "ada")), 429)
end)

-- ── coming in ──

test.case("a token that is missing, forged or for something else is refused with 4401", function()
  local app = test.app("auth")
  local good = token(app, "vic")
  local head, body, signature = unpack(good:split("."))
  local function encoded(value) return relay.base64.encode(relay.json.encode(value), { url = true }) end
  local claims = relay.json.decode(relay.base64.decode(body, { url = true }))
  claims.role = "admin"
  local bad = {
    none = "",
    nonsense = "x",
    cut = good:sub(1, -5),
    promoted = `{head}.{encoded(claims)}.{signature}`,
    unsigned = `{encoded({ alg = "none", typ = "JWT" })}.{encoded(claims)}.`,
    long = ("x"):rep(5000),
    with_another_key = relay.jwt.sign(claims, { key = ("x"):rep(32), algorithm = "HS256" }),
  }
  for what, token in bad do
    local refused = app:connect("/team/lobby?token=" .. token).refused
    test.equal({ what, refused and refused.code }, { what, 4401 })
    test.equal(refused.reason:sub(1, 14), "log in again: ")
  end
  test.equal(app:connect("/team/lobby").refused.code, 4401)
end)

test.case("the key of this app signs nothing for another audience, nor without an end", function()
  local key = ("k"):rep(32)
  local app = test.app("auth", { settings = { secret = key } })
  local function refused(claims)
    local token = relay.jwt.sign(claims, { key = key, algorithm = "HS256" })
    return app:connect("/team/lobby?token=" .. token).refused
  end
  local exp = math.floor(relay.now()) + 60
  test.equal(refused({ sub = "ada", role = "admin", aud = "shop", exp = exp }).code, 4401)
  test.equal(refused({ sub = "ada", role = "admin", exp = exp }).code, 4401)
  test.equal(refused({ sub = "ada", role = "admin", aud = "team" }).code, 4401)
end)

test.case("outside a browser the token may come in a header", function()
  local app = test.app("auth")
  local vic = app:connect("/team/lobby", { headers = { authorization = "Bearer " .. token(app, "vic") } })
  local welcome = { type = "welcome", id = "vic", role = "viewer", room = "lobby", may_write = false }
  test.equal(vic:receive_json(), welcome)
end)

test.case("a connection ends with its token, unless a newer one has renewed it", function()
  local app = test.app("auth", { settings = { token_seconds = 60 } })
  local vic = settled(app, "vic")
  local max = settled(app, "max", { vic })
  app:advance(50)
  vic:send("/renew " .. token(app, "vic"))
  test.equal(vic:receive_json(), { type = "renewed", expires_at = math.floor(relay.now()) + 60 })
  app:advance(15)
  test.equal(max.closed and max.closed.code, 4401)
  test.equal(vic:receive_json(), { type = "went", id = "max" })
  test.equal(vic.closed, nil)
  app:advance(50)
  test.equal(vic.closed and vic.closed.code, 4401)
end)

test.case("a token that is forged or somebody else's renews nothing", function()
  local app = test.app("auth", { settings = { token_seconds = 60 } })
  local vic = settled(app, "vic")
  vic:send("/renew " .. token(app, "ada"))
  test.equal(vic:receive_json(), { type = "refused", why = "this is the token of somebody else" })
  vic:send("/renew nonsense")
  test.equal(vic:receive_json().why:sub(1, 14), "log in again: ")
  app:advance(61)
  test.equal(vic.closed and vic.closed.code, 4401)
end)

-- ── who may do what ──

test.case("each role may do what the README says, and people what their own rules say", function()
  local app = test.app("auth")
  test.matrix({ ada = come_in(app, "ada"), max = come_in(app, "max"), vic = come_in(app, "vic") }, [[
                          ada  max  vic
    join team.lobby       yes  yes  yes
    join team.news        yes  yes  yes
    join team.board       yes  no   no
    publish team.lobby    yes  yes  no
    publish team.news     yes  yes  no
    publish team.board    yes  no   no
    remove team.lobby     yes  no   no
    grant role.admin      yes  no   no
    grant role.viewer     yes  no   no
  ]])
end)

test.case("a room that is not theirs is closed to them, and nobody inside hears of it", function()
  local app = test.app("auth")
  local ada, vic, max = come_in(app, "ada", "board"), come_in(app, "vic", "board"), come_in(app, "max", "board")
  test.equal(ada:receive_json().room, "board")
  test.equal(vic.closed, { code = 4403, reason = "a viewer may not enter board" })
  -- A rule of his own, and so it is told of him.
  test.equal(max.closed, { code = 4403, reason = "max may not enter board" })
  test.silent(ada, vic, max)
end)

test.case("those who may write are heard, and a viewer is told why not", function()
  local app = test.app("auth")
  local transcript = [[
    ada opens /team/lobby?token=%s
    ada < {"type":"welcome","id":"ada","role":"admin","room":"lobby","may_write":true}
    vic opens /team/lobby?token=%s
    vic < {"type":"welcome","id":"vic","role":"viewer","room":"lobby","may_write":false}
    ada < {"type":"came","id":"vic","role":"viewer"}
    ada > hello
    ada < {"type":"said","id":"ada","role":"admin","text":"hello"}
    vic < {"type":"said","id":"ada","role":"admin","text":"hello"}
    vic > let me in
    vic < {"type":"refused","why":"a viewer may not write in lobby"}
    vic > /remove ada
    vic < {"type":"refused","why":"a viewer may not remove people from lobby"}
    vic > /role vic admin
    vic < {"type":"refused","why":"a viewer may not give the role admin"}
    vic closes 1000
    ada < {"type":"went","id":"vic"}
  ]]
  test.play(app, transcript:format(token(app, "ada"), token(app, "vic")))
end)

test.case("a message is a text of at most 2000 bytes", function()
  local app = test.app("auth")
  local ada = settled(app, "ada")
  local refused = { type = "refused", why = "send a text of at most 2000 bytes" }
  ada:send(("x"):rep(2000))
  test.equal(ada:receive_json().type, "said")
  ada:send(("x"):rep(2001))
  test.equal(ada:receive_json(), refused)
  ada:send("hello", true)
  test.equal(ada:receive_json(), refused)
  ada:send("/nothing like it")
  test.equal(ada:receive_json().text, "/nothing like it")
end)

-- ── what an admin does ──

test.case("an admin removes somebody from all their connections, in every instance", function()
  local app = test.app("auth", { instances = 2 })
  local ada = settled(app, "ada")
  local vic, again = settled(app, "vic", { ada }), settled(app, "vic", { ada })
  test.equal(vic:receive_json().type, "came")
  ada:send("/remove vic")
  test.equal(vic.closed, { code = 4403, reason = "removed by ada" })
  test.equal(again.closed, { code = 4403, reason = "removed by ada" })
  test.equal(ada:receive_json(), { type = "went", id = "vic" })
  test.equal(ada:receive_json(), { type = "went", id = "vic" })
  ada:send("/remove nobody")
  test.silent(ada)
end)

test.case("a role that an admin gives is in force at once, in every instance, and for later connections", function()
  local app = test.app("auth", { instances = 2 })
  local ada = settled(app, "ada")
  local vic = settled(app, "vic", { ada })
  ada:send("/role vic member")
  local told = { type = "role", id = "vic", role = "member", by = "ada" }
  test.equal(ada:receive_json(), told)
  test.equal(vic:receive_json(), told)
  vic:send("thank you")
  local said = { type = "said", id = "vic", role = "member", text = "thank you" }
  test.equal(vic:receive_json(), said)
  test.equal(ada:receive_json(), said)
  vic:close()
  -- The token that she got before is as good as a new one: it does not bring the old role back.
  local later = { type = "welcome", id = "vic", role = "member", room = "lobby", may_write = true }
  test.equal(come_in(app, "vic"):receive_json(), later)
  test.equal(app:reload().ok, true)
  test.equal(come_in(app, "vic"):receive_json(), later)
end)

test.case("who loses a role loses the room that it opened", function()
  local app = test.app("auth")
  local ada = settled(app, "ada")
  ada:send("/role vic admin")
  test.equal(ada:receive_json().role, "admin")
  local vic, eve = come_in(app, "vic", "board"), come_in(app, "ada", "board")
  test.equal({ vic:receive_json().room, eve:receive_json().room }, { "board", "board" })
  test.equal(vic:receive_json().type, "came")
  ada:send("/role vic viewer")
  test.equal(vic.closed, { code = 4403, reason = "a viewer may not enter board" })
  test.equal({ eve:receive_json().type, eve:receive_json().type }, { "role", "went" })
end)

test.case("a role gives nobody what a rule of their own denies", function()
  local app = test.app("auth")
  local ada = settled(app, "ada")
  local max = settled(app, "max", { ada })
  ada:send("/role max admin")
  test.equal(max:receive_json().role, "admin")
  test.matrix({ max = max }, [[
                        max
    publish team.board  yes
    grant role.admin    yes
    join team.board     no
  ]])
  test.equal(come_in(app, "max", "board").closed, { code = 4403, reason = "max may not enter board" })
end)

test.case("a role must be one of those that there are, and a person one of those", function()
  local app = test.app("auth")
  local ada = settled(app, "ada")
  for rest, why in {
    ["vic king"] = "there is no such person, or no such role",
    ["nobody viewer"] = "there is no such person, or no such role",
    ["vic"] = "write /role NAME ROLE",
    ["vic member now"] = "write /role NAME ROLE",
    ["vic *"] = "write /role NAME ROLE",
  } do
    ada:send("/role " .. rest)
    test.equal(ada:receive_json(), { type = "refused", why = why })
  end
  test.silent(ada)
end)

-- ── the script itself ──

test.case("a reload keeps connections, rooms and who may do what", function()
  local app = test.app("auth")
  local ada = settled(app, "ada")
  local vic = settled(app, "vic", { ada })
  ada:send("/role vic member")
  ada:receive_json()
  vic:receive_json()
  test.equal(app:reload(), { ok = true, from = 1, generation = 2 })
  for _, line in app:log() do test.equal(line.level ~= "error", true) end
  test.equal({ ada.closed, vic.closed }, {})
  test.equal(vic:rooms(), { "team.lobby" })
  vic:send("still here")
  test.equal(vic:receive_json(), { type = "said", id = "vic", role = "member", text = "still here" })
  test.equal(ada:receive_json().text, "still here")
  test.silent(ada, vic)
end)

test.case("a key that is too short to sign with is refused at loading", function()
  test.raises(function()
    test.app("auth", { settings = { secret = "short" } })
  end, "set AUTH_SECRET to a key of 32 bytes or more")
end)
