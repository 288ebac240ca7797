-- What each callback may do: docs/reference/ of moonwire, or `moonwire types` for your editor.
-- Save this file while the relay runs: the new code handles the next message, and nobody is disconnected.
local app = {}

-- Before anybody is let in: return who it is, or nil and why not.
function app.authenticate(request)
  return true -- everybody, anonymous
end

function app.on_open(conn)
  conn.state.room = "room." .. relay.token(conn.params.room)
  conn:join(conn.state.room)
end

function app.on_message(conn, data, binary)
  conn:publish(conn.state.room, data, binary)
end

return app
