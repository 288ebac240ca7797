-- Connections in many rooms: /many/200/100 joins rooms 200 to 299. The first ten bytes of a message say which one it goes to.
local app = {}

function app.authenticate()
  return true
end

function app.on_open(conn)
  local first = tonumber(conn.params.first)
  for room = first, first + tonumber(conn.params.count) - 1 do
    conn:join(string.format("%010d", room))
  end
end

function app.on_message(conn, data)
  conn:publish(string.sub(data, 1, 10), data)
end

return app
