-- moonwire.test: cases for scripts, against the real host with virtual peers and a virtual clock.
-- Every call that makes something happen returns once everything is at rest.
local _, host = ...
local raise = host.raise

local test = {}

-- ── words for what is compared ──

local function is_list(t)
  local count = 0
  for _ in t do count += 1 end
  return count == #t
end

local function sorted_keys(t)
  local keys = {}
  for key in t do table.insert(keys, key) end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then return a < b end
    return tostring(a) < tostring(b)
  end)
  return keys
end

local function show(value, depth)
  depth = depth or 0
  if type(value) == "string" then
    if #value > 500 then return string.format("%q", value:sub(1, 500)) .. `… ({#value} bytes)` end
    return string.format("%q", value)
  elseif type(value) ~= "table" then
    return tostring(value)
  elseif depth > 8 then
    return "{…}"
  elseif next(value) == nil then
    return "{}"
  end
  local parts = {}
  if is_list(value) then
    for _, item in ipairs(value) do table.insert(parts, show(item, depth + 1)) end
  else
    for _, key in sorted_keys(value) do
      local name = if type(key) == "string" and key:match("^[%a_][%w_]*$") then key else "[" .. show(key) .. "]"
      table.insert(parts, name .. " = " .. show(value[key], depth + 1))
    end
  end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

-- Each place where two values differ, by its path.
local function differences(got, expected, path, found, depth)
  if #found >= 10 then return found end
  if type(got) ~= "table" or type(expected) ~= "table" or depth > 32 then
    -- Not a number is the same as itself here: a test asks what came out.
    local same = got == expected or (got ~= got and expected ~= expected)
    if not same then table.insert(found, { path = path, got = got, expected = expected }) end
    return found
  end
  local keys = {}
  for key in got do keys[key] = true end
  for key in expected do keys[key] = true end
  for _, key in sorted_keys(keys) do
    local name = if type(key) == "string" and key:match("^[%a_][%w_]*$") then "." .. key else "[" .. show(key) .. "]"
    differences(got[key], expected[key], path .. name, found, depth + 1)
  end
  return found
end

local function checked(name, argument, value, wanted)
  if type(value) ~= wanted then
    raise(`{name}: {argument} must be a {wanted}, got {type(value)}`)
  end
  return value
end

local function known(name, options, names)
  options = options or {}
  checked(name, "options", options, "table")
  for key in options do
    if not table.find(names, key) then
      raise(`{name}: unknown option '{tostring(key)}' (it takes {table.concat(names, ", ")})`)
    end
  end
  return options
end

-- ── cases ──

local names = {}

function test.case(name, fn)
  checked("test.case(name, fn)", "name", name, "string")
  checked("test.case(name, fn)", "fn", fn, "function")
  if names[name] then raise(`test.case(name, fn): there is a case "{name}" already`) end
  names[name] = true
  host.case(name, fn)
end

function test.equal(got, expected)
  local found = differences(got, expected, "", {}, 0)
  if #found == 0 then return end
  if found[1].path == "" then
    raise(`the values differ\ngot      {show(found[1].got)}\nexpected {show(found[1].expected)}`)
  end
  local lines = { "the values differ", "got      " .. show(got), "expected " .. show(expected), "in" }
  for _, each in found do
    table.insert(lines, `  {each.path}: got {show(each.got)}, expected {show(each.expected)}`)
  end
  raise(table.concat(lines, "\n"))
end

function test.raises(fn, part)
  checked("test.raises(fn, part)", "fn", fn, "function")
  local ok, err = pcall(fn)
  if ok then raise("it did not raise") end
  if part ~= nil and not tostring(err):find(part, 1, true) then
    raise(`it raised  {show(tostring(err))}\nand not    {show(part)}`)
  end
  return err
end

-- ── peers ──

local Peer = {}

local function called(self, name)
  if type(self) ~= "table" or not rawget(self, "name") then
    raise(`{name}: call it with a colon on what app:connect gave`)
  end
  if self.refused then raise(`{name}: this peer was refused with {self.refused.status or self.refused.code}`) end
  return self
end

local function text_of(data, binary)
  if not binary and #data > 200 then return data:sub(1, 200) .. `… ({#data} bytes)` end
  return if binary then `({#data} bytes) {relay.hex.encode(data:sub(1, 32))}` else data
end

local methods = {}

function methods:send(data, binary)
  called(self, "peer:send(data, binary)")
  local closed = self.closed
  if closed then raise(`peer:send(data, binary): {self.name} is closed, with {closed.code} {closed.reason}`) end
  checked("peer:send(data, binary)", "data", data, "string")
  host.note(`{self.name} > {text_of(data, binary)}`)
  host.send(self.of, data, binary == true)
end

function methods:send_json(value)
  called(self, "peer:send_json(value)")
  local text, why = relay.json.encode(value)
  if not text then raise("peer:send_json(value): " .. why) end
  self:send(text)
end

function methods:receive()
  called(self, "peer:receive()")
  local data, binary = host.take(self.of)
  if data == nil then return nil end
  host.note(`{self.name} < {text_of(data, binary)}`)
  return data, binary
end

function methods:receive_json()
  local data = self:receive()
  if data == nil then return nil end
  local value, why = relay.json.decode(data)
  if value == nil then raise(`peer:receive_json(): {show(data)} is no JSON: {why}`) end
  return value
end

function methods:close(code, reason)
  called(self, "peer:close(code, reason)")
  host.close(self.of, code, reason)
  host.note(`{self.name} closes {code or 1000} {reason or ""}`)
end

function methods:drop()
  called(self, "peer:drop()")
  host.note(`{self.name} vanishes`)
  host.drop(self.of)
end

function methods:can(action, resource)
  called(self, "peer:can(action, resource)")
  return host.can(self.of, action, resource)
end

function methods:rooms()
  called(self, "peer:rooms()")
  return host.rooms(self.of)
end

function Peer.__index(self, key)
  if methods[key] then return methods[key] end
  if key == "closed" then
    if self.refused then return self.refused.code and self.refused end
    local code, reason = host.closed(rawget(self, "of"))
    return code and { code = code, reason = reason }
  elseif key == "id" or key == "subprotocol" then
    return rawget(self, "of") and host[key](rawget(self, "of"))
  elseif key ~= "refused" and key ~= "of" then
    raise(`a peer has no field '{tostring(key)}'`)
  end
  return nil
end
Peer.__tostring = function(self) return self.name end

function test.silent(...)
  for place = 1, select("#", ...) do
    local peer = called((select(place, ...)), "test.silent(peer, …)")
    local data = peer:receive()
    if data ~= nil then raise(`{peer.name} was to hear nothing, and received {show(data)}`) end
  end
end

-- ── apps ──

local App = {}
App.__index = App

local function no_server()
  return nil, "no http stub in this test: give test.app one, as in { http = function(request) … end }"
end

local function stub_of(http)
  if http == nil then return no_server end
  if type(http) == "function" then return http end
  checked("test.app(name, options)", "http", http, "table")
  return function(request)
    local answer = http[request.url]
    if answer == nil then return nil, `the http stub has no answer for {request.url}` end
    if type(answer) == "string" then return { status = 200, body = answer } end
    return answer
  end
end

local peers = 0

function test.app(name, options)
  checked("test.app(name, options)", "name", name, "string")
  options = known("test.app(name, options)", options, { "settings", "instances", "http", "env" })
  local of = host.start(name, {
    settings = options.settings,
    instances = options.instances,
    http = stub_of(options.http),
    env = options.env,
  })
  return setmetatable({ of = of, name = name }, App)
end

local function app_of(self, name)
  if type(self) ~= "table" or getmetatable(self) ~= App then
    raise(`{name}: app must be what test.app gave, and is called with a colon; got {type(self)}`)
  end
  return self.of
end

function App:connect(target, options)
  local of = app_of(self, "app:connect(target, options)")
  checked("app:connect(target, options)", "target", target, "string")
  if target:sub(1, 1) ~= "/" then raise(`app:connect(target, options): target is a path that begins with /, got {show(target)}`) end
  options = known("app:connect(target, options)", options, { "headers", "subprotocols" })
  local headers = table.clone(checked("app:connect(target, options)", "headers", options.headers or {}, "table"))
  if options.subprotocols then headers["sec-websocket-protocol"] = table.concat(options.subprotocols, ", ") end
  peers += 1
  local name = target:match("[?&]name=([%w_-]+)") or `peer{peers}`
  local peer, code, reason = host.connect(of, target, headers)
  local self = { of = peer, name = name }
  if peer then
    host.note(`{name} opens {target}`)
  else
    self.refused = if code < 600 then { status = code, reason = reason } else { code = code, reason = reason }
    host.note(`{name} opens {target} and is refused {code} {reason}`)
  end
  return setmetatable(self, Peer)
end

function App:advance(seconds)
  local of = app_of(self, "app:advance(seconds)")
  host.advance(of, seconds)
  host.note(`{tostring(seconds)} s pass`)
end

function App:reload(script)
  local of = app_of(self, "app:reload(script)")
  if script ~= nil then checked("app:reload(script)", "script", script, "string") end
  local report = host.reload(of, script)
  host.note(if report.ok then `reload: generation {report.generation}` else `reload refused: {report.error}`)
  return report
end

function App:request(request)
  local of = app_of(self, "app:request(request)")
  if type(request) ~= "table" then raise(`app:request(request): request must be a table, as in \{ path = "/x" }, got {type(request)}`) end
  request = known("app:request(request)", request, { "method", "path", "headers", "body" })
  checked("app:request(request)", "path", request.path, "string")
  local method = request.method or "GET"
  host.note(`{method} {request.path}`)
  local answer = host.request(of, method, request.path, request.headers or {}, request.body or "")
  host.note(`  is answered {answer.status}`)
  return answer
end

function App:log()
  app_of(self, "app:log()")
  return host.log()
end

function test.play(app, text)
  local of = app_of(app, "test.play(app, transcript)")
  checked("test.play(app, transcript)", "transcript", text, "string")
  host.play(of, text)
end

-- ── who may do what ──

function test.matrix(members, text)
  checked("test.matrix(peers, table)", "peers", members, "table")
  checked("test.matrix(peers, table)", "table", text, "string")
  local columns, wrong = nil, {}
  for line in text:gmatch("[^\n]+") do
    local words = {}
    for word in line:gmatch("%S+") do table.insert(words, word) end
    if #words == 0 then
      continue
    elseif not columns then
      columns = words
      for _, name in columns do
        if not members[name] then raise(`test.matrix(peers, table): there is no peer "{name}" in peers`) end
      end
    else
      if #words ~= #columns + 2 then
        raise(`test.matrix(peers, table): a line is an action, a resource and {#columns} times yes or no: {line}`)
      end
      for place, name in columns do
        local expected = words[place + 2]
        if expected ~= "yes" and expected ~= "no" then
          raise(`test.matrix(peers, table): yes or no, not "{expected}": {line}`)
        end
        local may, why = members[name]:can(words[1], words[2])
        if may ~= (expected == "yes") then
          table.insert(wrong, `{name} {if may then "may" else "may not"} {words[1]} {words[2]} ({why})`)
        end
      end
    end
  end
  if not columns then raise("test.matrix(peers, table): the first line names the peers") end
  if #wrong > 0 then raise(table.concat(wrong, "\n")) end
end

return table.freeze(test)
