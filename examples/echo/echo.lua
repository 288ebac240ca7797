-- The four callbacks of the classic handler (onOpen, onMessage, onClose, onError), as an echo.
local app = {}

-- onOpen(ConnectionInterface $conn)
function app.on_open(conn)
  print("new connection " .. conn.id .. " from " .. conn.remote_addr)
end

-- onMessage(ConnectionInterface $from, $msg): back to its sender, text as text and binary as binary.
function app.on_message(conn, data, binary)
  conn:send(data, { binary = binary })
end

-- onClose(ConnectionInterface $conn): here with the code and the reason of the close.
function app.on_close(conn, code, reason)
  print("connection " .. conn.id .. " closed with " .. code .. (reason ~= "" and ": " .. reason or ""))
end

-- onError(ConnectionInterface $conn, \Exception $e): a callback above raised an error. The relay
-- has logged it, with its traceback; the classic handler closes the connection, and so does this one.
function app.on_error(conn, err)
  if conn then conn:close(1011, err.callback .. " failed") end
end

-- The classic handler has no such question: everybody may connect.
function app.authenticate(request)
  return true
end

return app
