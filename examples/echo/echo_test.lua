-- Run with: moonwire test -c examples/echo/config.toml
local test = require("moonwire.test")

test.case("every message goes back to its sender, and to nobody else", function()
  local app = test.app("echo")
  test.play(app, [[
    ann opens
    bob opens
    ann > hello
    ann < hello
    bob > {"any": "text"}
    bob < {"any": "text"}
  ]])
end)

test.case("text comes back as text and binary as binary", function()
  local app = test.app("echo")
  local ann = app:connect("/echo")
  for _, sent in { { "", false }, { "zażółć", false }, { "", true }, { "\0\255\1", true } } do
    ann:send(sent[1], sent[2])
    local data, binary = ann:receive()
    test.equal({ data, binary }, sent)
  end
end)

test.case("messages come back in the order in which they were sent", function()
  local app = test.app("echo", { instances = 2 })
  local ann, bob = app:connect("/echo"), app:connect("/echo")
  for n = 1, 100 do
    ann:send("ann " .. n)
    bob:send("bob " .. n)
  end
  for n = 1, 100 do
    test.equal(ann:receive(), "ann " .. n)
    test.equal(bob:receive(), "bob " .. n)
  end
  test.silent(ann, bob)
end)

test.case("the log tells who comes, and with what code and reason they go", function()
  local app = test.app("echo")
  local ann, bob, eve = app:connect("/echo"), app:connect("/echo"), app:connect("/echo")
  ann:close(4000, "enough")
  bob:close(1000)
  eve:drop()
  local told = {}
  for _, line in app:log() do table.insert(told, line.message) end
  test.equal(told, {
    `new connection {ann.id} from 127.0.0.1`,
    `new connection {bob.id} from 127.0.0.1`,
    `new connection {eve.id} from 127.0.0.1`,
    `connection {ann.id} closed with 4000: enough`,
    `connection {bob.id} closed with 1000`,
    `connection {eve.id} closed with 1006`,
  })
end)

test.case("a reload disconnects nobody", function()
  local app = test.app("echo")
  test.play(app, [[
    ann opens
    ann > before
    ann < before
    reload
    ann > behind
    ann < behind
    ann closes 1000
  ]])
  test.equal(app:reload(), { ok = true, from = 2, generation = 3 })
end)

-- A callback is a function of the module: what no peer can bring about, a test calls by itself.
test.case("an error in a callback closes its connection with 1011", function()
  local echo = require("echo")
  local closed
  local conn = { close = function(_, code, reason) closed = { code, reason } end }
  echo.on_error(conn, { callback = "on_message" })
  test.equal(closed, { 1011, "on_message failed" })
  echo.on_error(nil, { callback = "on_start" }) -- outside of a connection there is nothing to close
end)
