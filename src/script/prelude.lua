-- What must be Lua so that a wait can pass through it: a host function that waits leaves its wait with the
-- host and yields TOKEN; whoever resumes on the way out passes it outward, until the host itself is reached.
local host, TOKEN = ...

local raw_pcall, raw_xpcall, type, error, unpack, pack = pcall, xpcall, type, error, table.unpack, table.pack
local raw_yield, raw_resume, raw_create = coroutine.yield, coroutine.resume, coroutine.create
local raw_close, isyieldable, running = coroutine.close, coroutine.isyieldable, coroutine.running
local insert, clone = table.insert, table.clone
local describe, drop_wait, raise = host.describe, host.drop_wait, host.raise

local CANNOT_WAIT = " cannot wait here: inside a metamethod, a for iterator, table.sort, string.gsub or a function given to a host call"

-- Coroutines that wait, the host's for callbacks and the script's own: only the host may go on with them.
local waiting = setmetatable({}, { __mode = "k" })

local function woken(co, ...)
  waiting[co] = nil
  return ...
end

-- Gives the host its turn, until what is waited for is there.
local function pause()
  local co = running()
  waiting[co] = true
  return woken(co, raw_yield(TOKEN))
end

local function outcome(ok, ...)
  if not ok then
    raise((...))
  end
  return ...
end

-- Waits for what `begin` has left with the host.
local function waits(name, begin)
  return function(...)
    -- A call that need not wait answers at once.
    local ready, a, b, c = begin(...)
    if ready then
      return a, b, c
    end
    if not isyieldable() then
      drop_wait()
      raise(name .. CANNOT_WAIT)
    end
    return outcome(pause())
  end
end

-- Waits for its turn at a key, then computes and writes; again, if another value has come in meanwhile.
local function update(name, begin, write)
  local held, written = waits(name, begin), waits(name, write)
  return function(key, fn, options)
    local token, why = held(key, fn, options)
    local value
    while token do
      token, value, why = written(token, fn, options)
    end
    return value, why
  end
end

-- Shows what there is and gets what the script makes of it, until there is nothing that it has not seen.
local function rounds(name, begin, round, finish)
  local waited = waits(name, round)
  return function(of, fn)
    local change, computed = begin(of, fn), {}
    local ok, problem = raw_pcall(function()
      repeat
        local unknown = waited(change, computed)
        for _, before in unknown do
          insert(computed, { before, (fn(before and clone(before) or {})) })
        end
      until #unknown == 0
    end)
    -- Others have their turn, whatever has become of this.
    finish(change)
    if not ok then
      error(problem, 0)
    end
    return true
  end
end

local function caught(ok, ...)
  if ok then
    return true, ...
  end
  return false, (describe((...)))
end

local function protected(f, ...)
  return caught(raw_pcall(f, ...))
end

local function handled(f, handler, ...)
  if type(handler) ~= "function" then
    raise("xpcall(f, handler): handler must be a function, got " .. type(handler))
  end
  return raw_xpcall(f, function(e)
    return handler((describe(e)))
  end, ...)
end

local function pass_outward(co)
  waiting[co] = true
  local results
  repeat
    if isyieldable() then
      results = pack(raw_resume(co, pause()))
    else
      drop_wait()
      results = pack(raw_resume(co, false, "the coroutine" .. CANNOT_WAIT))
    end
  until not (results[1] and results[2] == TOKEN)
  waiting[co] = nil
  if not results[1] then
    return false, (describe(results[2]))
  end
  return unpack(results, 1, results.n)
end

local function resumed(co, ok, first, ...)
  if not ok then
    return false, (describe(first))
  end
  if first == TOKEN then
    return pass_outward(co)
  end
  return true, first, ...
end

local function resume(co, ...)
  if waiting[co] then
    return false, "cannot resume a coroutine that waits"
  end
  return resumed(co, raw_resume(co, ...))
end

local function values(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

local function wrap(f)
  local co = raw_create(f)
  return function(...)
    return values(resume(co, ...))
  end
end

local function close(co)
  if waiting[co] then
    return false, "cannot close a coroutine that waits"
  end
  return raw_close(co)
end

-- What only the libraries that the binary carries get: the host adds to it.
local carried = { raise = raise }

-- require: each module runs once in a generation.
local loaded = {}
local loading = {}

local function require_module(name)
  local key, found = host.locate(name)
  if found ~= nil then
    return found
  end
  local have = loaded[key]
  if have ~= nil then
    return have
  end
  if loading[key] then
    raise("require(\"" .. name .. "\"): the modules require each other in a circle")
  end
  loading[key] = true
  local chunk = host.compile(key)
  local ok, module = raw_pcall(chunk, name, host.is_carried(key) and carried or nil)
  loading[key] = nil
  if not ok then
    error(module, 0)
  end
  if module == nil then
    module = true
  end
  loaded[key] = module
  return module
end

return {
  waits = waits,
  update = update,
  rounds = rounds,
  pcall = protected,
  xpcall = handled,
  resume = resume,
  wrap = wrap,
  close = close,
  require = require_module,
  carried = carried,
}
