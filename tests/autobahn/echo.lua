-- What the Autobahn suite talks to: every message goes back as it came.
local app = {}

function app.authenticate()
  return true
end

function app.on_message(conn, data, binary)
  conn:send(data, binary)
end

return app
