-- Asking a peer, and waiting for what it replies.
return function(router)
  router:on("ask", { of = { "string", max = 32 }, question = { "string", max = 500 } }, function(conn, message)
    local asked = relay.user(message.of):connections()[1]
    if not asked or asked == conn then
      return false, `{message.of} cannot be asked`
    end
    -- It waits in this callback; only this connection's own messages wait with it.
    local question = { from = conn.user.id, question = message.question }
    local answer, why = router:request(asked, "question", question, { timeout = 5 })
    if answer == nil then
      return false, why
    end
    return answer
  end)
end
