-- The same work as the other servers do, in a script: /echo comes back, anything else goes to all others of the same path.
local app = {}

function app.authenticate()
  return true
end

function app.on_open(conn)
  if conn.params.what ~= "echo" then
    conn:join(conn.params.what)
  end
end

function app.on_message(conn, data, binary)
  if conn.params.what == "echo" then
    conn:send(data, binary)
  else
    conn:publish(conn.params.what, data, binary)
  end
end

-- Tells who measures reloads which load of the script answers.
function app.on_request()
  return tostring(relay.generation)
end

return app
