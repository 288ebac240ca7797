-- JSON to all others of the room: each message is read, one field is changed, and it is written again.
local app = {}

function app.authenticate()
  return true
end

function app.on_open(conn)
  conn:join(conn.params.room)
end

function app.on_message(conn, data)
  local message = relay.json.decode(data)
  message.hops += 1
  conn:publish_json(conn.params.room, message)
end

return app
