-- moonwire.router: takes JSON messages apart by their `type`, checks their fields, and hands them to handlers.
-- An `id` from the peer is acknowledged and handled once; `router:request` asks the peer and waits for its reply.
local _, carried = ...
local raise = carried.raise
local shape = require("moonwire.shape")

local RESERVED = { ack = true, error = true, reply = true }
local STATE = "moonwire.router" -- the field of conn.state with the ids that have been handled
local WINDOW, TIMEOUT, ID_MAX = 64, 10, 64

-- ── what goes back ──

local function refuse(conn, id, what, message, field)
  conn:send_json({ type = "error", id = id, error = what, message = message, field = field })
end

-- In conn.state, so that a reload does not forget; the oldest id makes room for the newest.
local function remember(conn, id, window)
  local seen = conn.state[STATE] or { ids = {}, next = 1 }
  seen.ids[seen.next] = id
  seen.next = seen.next % window + 1
  conn.state[STATE] = seen
end

local function run(router, conn, handler, message, id)
  local trace = ""
  local ok, result, why = xpcall(handler, function(err)
    trace = debug.traceback()
    return err
  end, conn, message)
  if not ok then
    refuse(conn, id, "failed", "the relay could not handle this")
    if type(result) == "string" then
      raise(result .. "\nstack traceback:\n" .. trace)
    end
    error(result, 0)
  end
  if not result and type(why) == "string" then
    refuse(conn, id, "refused", why)
  elseif id ~= nil then
    remember(conn, id, router.window)
    if not pcall(conn.send_json, conn, { type = "ack", id = id, data = result }) then
      raise(`the handler of "{message.type}" returned what JSON cannot hold`)
    end
  end
end

local function receive(router, conn, data, binary)
  if binary then
    if router.binary then
      return router.binary(conn, data)
    end
    return refuse(conn, nil, "bad_message", "a message must be JSON text")
  end
  local message, why = relay.json.decode(data)
  if message == nil then
    return refuse(conn, nil, "bad_json", why)
  elseif type(message) ~= "table" or type(message.type) ~= "string" then
    return refuse(conn, nil, "bad_message", "a message must be an object with a type")
  end
  local id = if message.id == relay.json.null then nil else message.id
  if not (id == nil or type(id) == "number" or (type(id) == "string" and #id <= ID_MAX)) then
    return refuse(conn, nil, "bad_field", `id must be a number or a string of at most {ID_MAX} bytes`, "id")
  end
  if RESERVED[message.type] then
    local asked = if id == nil then nil else router.asked[id]
    if asked and asked.conn == conn.id and message.type ~= "ack" then
      asked.reply = message
      carried.tell(asked.signal)
    end
    return -- a late one is for nobody any more
  end
  local seen = id ~= nil and conn.state[STATE]
  if seen and table.find(seen.ids, id) then
    return conn:send_json({ type = "ack", id = id, duplicate = true })
  end
  local route = router.routes[message.type]
  if route then
    local fields, field, problem = route.check(message)
    if not fields then
      return refuse(conn, id, "bad_field", problem, field)
    end
    fields.type, fields.id = message.type, id
    run(router, conn, route.handler, fields, id)
  elseif router.fallback then
    run(router, conn, router.fallback, message, id)
  else
    refuse(conn, id, "unknown_type", `there is no type "{message.type:sub(1, 64)}"`)
  end
end

-- ── what scripts call ──

local Router = {}
Router.__index = Router

-- Handles messages of `kind`: handler(conn, message) may return what is acknowledged, or false and why not.
function Router:on(kind, fields, handler)
  local where = "router:on(type, fields, handler)"
  if type(self) ~= "table" or getmetatable(self) ~= Router then
    raise(`{where}: call it with a colon`)
  elseif type(kind) ~= "string" or RESERVED[kind] or self.routes[kind] then
    raise(`{where}: type must be a new name, and not ack, error or reply; got {kind}`)
  elseif type(handler) ~= "function" then
    raise(`{where}: handler must be a function, got {type(handler)}`)
  end
  local check = shape.of(fields, `{where}, {kind}`)
  if fields.type or fields.id then
    raise(`{where}, {kind}: type and id belong to the router, and are no fields`)
  end
  self.routes[kind] = { check = check, handler = handler }
end

function Router:handler()
  return function(conn, data, binary)
    receive(self, conn, data, binary)
  end
end

local asked_before = 0

-- Asks the peer, and waits for its reply: the data of it, or nil and why.
function Router:request(conn, kind, data, options)
  local where = "router:request(conn, type, data, options)"
  local busy = carried.in_lane(where, conn)
  if type(kind) ~= "string" then
    raise(`{where}: type must be a string, got {type(kind)}`)
  elseif data ~= nil and type(data) ~= "table" then
    raise(`{where}: data must be a table or nil, got {type(data)}`)
  elseif options ~= nil and type(options) ~= "table" then
    raise(`{where}: options must be a table, got {type(options)}`)
  end
  local timeout = TIMEOUT
  for name, value in options or {} do
    if name ~= "timeout" then
      raise(`{where}: unknown option '{name}' (it takes timeout)`)
    end
    timeout = carried.seconds(where, "timeout", value)
  end
  if busy then
    raise(`{where}: a callback of this connection runs, and its reply could only come after that; call it in relay.spawn or a timer`)
  end
  asked_before += 1
  local id = `q{relay.generation}.{asked_before}`
  local message = table.clone(data or {})
  message.type, message.id = kind, id
  local asked = { conn = conn.id, signal = carried.signal() }
  local sent, why = conn:send_json(message)
  local ok, told = true, false
  if sent then
    self.asked[id] = asked
    ok, told = pcall(carried.wait, asked.signal, timeout)
  end
  self.asked[id] = nil
  local reply = asked.reply
  if not ok then
    error(told, 0) -- it was cancelled
  elseif not told or asked.closed then
    return nil, why or if asked.closed then "closed" else "timeout"
  elseif reply.type == "error" then
    return nil, if type(reply.message) == "string" then reply.message else "error"
  end
  return if reply.data == nil then true else reply.data
end

-- For on_close: what waits for a reply of this connection need not wait any longer.
function Router:closed(conn)
  for _, asked in self.asked do
    if asked.conn == conn.id then
      asked.closed = true
      carried.tell(asked.signal)
    end
  end
end

local function new(options)
  local router = { routes = {}, asked = {}, window = WINDOW }
  if options ~= nil and type(options) ~= "table" then
    raise(`router.new(options): options must be a table, got {type(options)}`)
  end
  for name, value in options or {} do
    if name == "window" then
      if type(value) ~= "number" or not (value >= 1 and value <= 1024 and value % 1 == 0) then
        raise("router.new(options): window must be a whole number from 1 to 1024")
      end
    elseif name ~= "fallback" and name ~= "binary" then
      raise(`router.new(options): unknown option '{name}' (it takes window, fallback, binary)`)
    elseif type(value) ~= "function" then
      raise(`router.new(options): {name} must be a function, got {type(value)}`)
    end
    router[name] = value
  end
  return setmetatable(router, Router)
end

return { new = new }
