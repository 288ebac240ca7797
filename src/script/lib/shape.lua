-- moonwire.shape: whether data from outside has the fields that it has to have, each of its type.
local _, carried = ...
local raise = carried.raise

local TYPES = "string, number, integer, boolean, array, object, table, enum, any"
local SHOWN = { integer = "a whole number", array = "an array", object = "an object", table = "an object or an array" }
-- What may have min and max, and how that is told.
local UNITS = { string = "have %s %s bytes", array = "have %s %s elements", number = "be %s %s", integer = "be %s %s" }

local rules_of, fields_of

-- The rule for one field, out of "string", "string?" or { "string", max = 500 }.
local function rule_of(where, path, given)
  local spec = if type(given) == "string" then { given } else given
  if type(spec) ~= "table" or type(spec[1]) ~= "string" then
    raise(`{where}: {path} must be a type such as "string" or "string?", or a table that begins with one`)
  end
  local kind, mark = spec[1]:match("^(%a+)(%??)$")
  if not kind or not table.find(TYPES:split(", "), kind) then
    raise(`{where}: {path} has the unknown type "{spec[1]}" (there are {TYPES})`)
  end
  local rule = { kind = kind, optional = mark == "?", values = {} }
  for name, value in spec do
    if (name == "min" or name == "max") and UNITS[kind] and type(value) == "number" then
      rule[name] = value
    elseif name == "of" and kind == "array" then
      rule.of = rule_of(where, path .. "[]", value)
    elseif name == "fields" and kind == "object" then
      rule.rules = rules_of(where, path .. ".", value)
    elseif type(name) == "number" and name > 1 and kind == "enum" then
      table.insert(rule.values, value)
    elseif name ~= 1 then
      raise(`{where}: {path} is of the type {kind}, which has no option {name} like this`)
    end
  end
  if kind == "enum" and #rule.values == 0 then
    raise(`{where}: {path} must name its values: \{ "enum", "red", "green" }`)
  end
  return rule
end

function rules_of(where, path, shape)
  if type(shape) ~= "table" then
    raise(`{where}: fields must be a table of names and types, got {type(shape)}`)
  end
  local rules = {}
  for name, given in shape do
    if type(name) ~= "string" then
      raise(`{where}: a field must have a name, got {name}`)
    end
    rules[name] = rule_of(where, path .. name, given)
  end
  return rules
end

local function is(kind, value)
  if kind == "integer" then
    return type(value) == "number" and value % 1 == 0 and math.abs(value) <= 2 ^ 53
  elseif kind == "array" then
    return type(value) == "table" and (next(value) == nil or #value > 0)
  elseif kind == "object" then
    return type(value) == "table" and #value == 0
  end
  return kind == "any" or type(value) == kind
end

-- What is wrong with the value itself, if anything is.
local function problem_of(rule, value)
  local kind = rule.kind
  if kind == "enum" then
    return if table.find(rule.values, value) then nil else `must be one of {table.concat(rule.values, ", ")}`
  elseif not is(kind, value) then
    return `must be {SHOWN[kind] or "a " .. kind}`
  elseif rule.min or rule.max then
    local size = if type(value) == "number" then value else #value
    if size < (rule.min or size) then
      return `must {UNITS[kind]:format("at least", rule.min)}`
    elseif size > (rule.max or size) then
      return `must {UNITS[kind]:format("at most", rule.max)}`
    end
  end
  return nil
end

-- true and the value as the handler gets it, or false, the path of what is wrong, and why.
local function checked(rule, value, path)
  local problem = problem_of(rule, value)
  if problem then
    return false, path, problem
  elseif rule.rules then
    return fields_of(rule.rules, value, path .. ".")
  end
  for place, element in if rule.of then value else {} do
    local ok, clean, why = checked(rule.of, element, `{path}[{place}]`)
    if not ok then
      return false, clean, why
    end
    value[place] = clean
  end
  return true, value
end

-- The declared fields and no others: a handler never sees what nobody has looked at.
function fields_of(rules, message, path)
  local fields = {}
  for name, rule in rules do
    local value = message[name]
    if value ~= nil and value ~= relay.json.null then
      local ok, clean, why = checked(rule, value, path .. name)
      if not ok then
        return false, clean, why
      end
      fields[name] = clean
    elseif not rule.optional then
      return false, path .. name, "is missing"
    end
  end
  return true, fields
end

-- A function that gives the declared fields of a table, or nil, the path of the first wrong one, and why.
local function of(fields, where)
  local rules = rules_of(where or "shape.of(fields)", "", fields)
  return function(value)
    if not is("object", value) then
      return nil, "", "must be an object"
    end
    local ok, clean, why = fields_of(rules, value, "")
    if ok then
      return clean
    end
    return nil, clean, `{clean} {why}`
  end
end

return { of = of }
