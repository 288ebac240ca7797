-- From a backend: POST /desk with the secret, {"text": …} for everybody or {"text": …, "to": …} for one user.
local check = require("moonwire.shape").of({ text = { "string", min = 1, max = 500 }, to = { "string?", max = 32 } })

local SECRET = relay.env("BACKEND_SECRET") or relay.config.secret

local function answer(status, value)
  return { status = status, headers = { ["content-type"] = "application/json" }, body = relay.json.encode(value) }
end

return function(request)
  if request.method ~= "POST" then
    return answer(405, { why = "POST an announcement" })
  end
  -- Compared in constant time: how long a wrong guess takes tells nothing.
  if not relay.crypto.equals(request.bearer or "", SECRET) then
    return answer(401, { why = "wrong secret" })
  end
  local fields, _, why = check(relay.json.decode(request.body))
  if not fields then
    return answer(400, { why = why })
  end
  local message = { type = "announcement", text = fields.text }
  if fields.to then
    relay.user(fields.to):send_json(message)
  else
    relay.broadcast_json(message)
  end
  return answer(200, { ok = true })
end
