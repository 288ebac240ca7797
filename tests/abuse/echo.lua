-- What hostile peers talk to: every message goes back, and the ending of each that has a name in its
-- address is logged.
local app = {}

function app.authenticate()
  return true
end

function app.on_message(conn, data, binary)
  conn:send(data, binary)
end

function app.on_close(conn, code, reason)
  if conn.query.name then
    -- The name is in the message, because lines with the same message are folded into one.
    relay.log.info("on_close of " .. conn.query.name, { name = conn.query.name, code = code, reason = reason })
  end
end

return app
