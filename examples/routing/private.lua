-- To one user, wherever and however often they are connected.
return function(router)
  router:on("private", { to = { "string", max = 32 }, text = { "string", min = 1, max = 500 } }, function(conn, message)
    local user = relay.user(message.to)
    if not user:online() then
      return false, `{message.to} is not here`
    end
    return user:send_json({ type = "private", from = conn.user.id, text = message.text })
  end)
end
