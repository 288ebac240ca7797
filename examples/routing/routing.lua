-- Who gets a message: one user, a room, everybody, or the peer that is asked. Each in a file of its own.
local router = require("moonwire.router").new()

local app = {}

require("private")(router)
require("rooms")(router)
require("asking")(router)
app.on_request = require("backend")

-- A demo: whoever says a name is believed. examples/auth shows how to ask for more.
function app.authenticate(request)
  local name = request.query.name or ""
  if not name:match("^%w+$") or #name > 32 then
    return relay.refuse(4400, "say who you are: ?name=ada")
  end
  return { id = name }
end

app.on_message = router:handler()

function app.on_close(conn)
  router:closed(conn)
end

return app
