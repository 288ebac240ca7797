-- To a room: everybody in it but the sender.
local ROOM = { "string", min = 1, max = 64 }

-- What a peer calls a room becomes one token of its name.
local function name_of(room)
  return "room." .. relay.token(room)
end

return function(router)
  router:on("join", { room = ROOM }, function(conn, message)
    return conn:join(name_of(message.room))
  end)

  router:on("leave", { room = ROOM }, function(conn, message)
    return conn:leave(name_of(message.room))
  end)

  router:on("say", { room = ROOM, text = { "string", min = 1, max = 500 } }, function(conn, message)
    local room = name_of(message.room)
    if not table.find(conn:rooms(), room) then
      return false, "join the room first"
    end
    return conn:publish_json(room, { type = "say", room = message.room, from = conn.user.id, text = message.text })
  end)
end
