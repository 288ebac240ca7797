-- Run with: moonwire test
local test = require("moonwire.test")

test.case("a message reaches the others in the room and not its sender", function()
  test.play(test.app("app"), [[
    ann opens
    bob opens
    eve opens /elsewhere
    ann > hi
    bob < hi
  ]])
end)

test.case("a reload keeps everybody connected", function()
  local app = test.app("app")
  local ann, bob = app:connect("/lobby?name=ann"), app:connect("/lobby?name=bob")
  test.equal(app:reload().ok, true)
  ann:send("still here")
  test.equal(bob:receive(), "still here")
end)
