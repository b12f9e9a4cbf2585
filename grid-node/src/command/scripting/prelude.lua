-- What every script finds. It is run once for each script, with what the host offers, and returns the environment.
local host, version, version_number = ...

local error, pcall, rawget, rawset, select, setmetatable, type = error, pcall, rawget, rawset, select, setmetatable, type
local tostring = tostring

-- A table that can be read only. Who asks for its metatable gets one that can be read only, too.
local function readonly() error('Attempt to modify a readonly table', 2) end
local shield = {}
setmetatable(shield, {
  __index = function() return shield end, __newindex = readonly, __metatable = shield,
})
local function protected(table)
  return setmetatable({}, { __index = table, __newindex = readonly, __metatable = shield })
end

-- A script that has been ended does not go on by catching that.
local function unless_over(went_well, ...)
  if not went_well and host.is_over() then error((...), 0) end
  return went_well, ...
end

-- The host answers what went well, or a table with `err`.
local function invoke(raises, ...)
  local said = host.call(...)
  if type(said) == 'table' and rawget(said, 'err') ~= nil and raises then
    error(said, 0)
  end
  return said
end

local redis = {
  call = function(...) return invoke(true, ...) end,
  pcall = function(...) return invoke(false, ...) end,
  error_reply = function(...)
    if select('#', ...) ~= 1 or type((...)) ~= 'string' then
      return { err = 'ERR wrong number or type of arguments' }
    end
    local text = ...
    if text:sub(1, 1) == '-' then
      text = text:sub(2)
    end
    -- The first word of several is the kind of the error.
    if not text:find(' ') then text = 'ERR ' .. text end
    return { err = text }
  end,
  status_reply = function(...)
    if select('#', ...) ~= 1 or type((...)) ~= 'string' then
      return { err = 'ERR wrong number or type of arguments' }
    end
    return { ok = ... }
  end,
  sha1hex = function(...)
    if select('#', ...) ~= 1 then error('wrong number of arguments', 0) end
    return host.sha1hex(tostring((...)))
  end,
  log = function(level, ...)
    if type(level) ~= 'number' then error('First argument must be a number (log level).', 0) end
    if level < 0 or level > 3 then error('Invalid log level.', 0) end
    if select('#', ...) == 0 then error('redis.log() requires two arguments or more.', 0) end
    local words = {}
    for at = 1, select('#', ...) do words[at] = tostring((select(at, ...))) end
    host.log(level, table.concat(words, ' '))
  end,
  setresp = function(...)
    local version = ...
    if select('#', ...) ~= 1 then error('redis.setresp() requires one argument.', 0) end
    if version ~= 2 and version ~= 3 then error('RESP version must be 2 or 3.', 0) end
    host.setresp(version)
  end,
  acl_check_cmd = host.acl_check_cmd and function(...)
    if select('#', ...) == 0 then error('Please specify at least one argument for this redis.acl_check_cmd() call', 0) end
    return host.acl_check_cmd(...)
  end or nil,
  -- Commands go through the log, whatever is asked for here; these are for scripts of other times.
  replicate_commands = function() return true end,
  set_repl = function() end,
  breakpoint = function() return false end,
  debug = function() end,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_SLAVE = 1, REPL_REPLICA = 1, REPL_AOF = 2, REPL_ALL = 3,
  REDIS_VERSION = version, REDIS_VERSION_NUM = version_number,
}

-- What can only be read, and where something that is not there is an error.
local function strict(look_up)
  return setmetatable({}, {
    __index = function(_, name)
      local value = look_up(name)
      if value == nil then
        error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
      end
      return value
    end,
    __newindex = readonly,
    __metatable = shield,
  })
end

local flags_known = {
  ['no-writes'] = true, ['allow-oom'] = true, ['allow-stale'] = true, ['no-cluster'] = true,
  ['allow-cross-slot-keys'] = true,
}
local named = {
  function_name = true, callback = true, description = true, flags = true,
}
host.registered, host.callbacks = {}, {}

local function register_function(...)
  local name, callback, description, flags
  local count = select('#', ...)
  if not host.loading then
    error('redis.register_function can only be called on FUNCTION LOAD command', 0)
  end
  if count < 1 or count > 2 then error('wrong number of arguments to redis.register_function', 0) end
  if count == 1 then
    local given = ...
    if type(given) ~= 'table' then
      error('calling redis.register_function with a single argument is only applicable to Lua table '
        .. '(representing named arguments).', 0)
    end
    for key in pairs(given) do
      if type(key) ~= 'string' then
        error('named argument key given to redis.register_function is not a string', 0)
      end
      if not named[key] then error('unknown argument given to redis.register_function', 0) end
    end
    name, callback, description, flags = given.function_name, given.callback, given.description, given.flags
    if name ~= nil and type(name) ~= 'string' then
      error('function_name argument given to redis.register_function must be a string', 0)
    end
    if description ~= nil and type(description) ~= 'string' then
      error('description argument given to redis.register_function must be a string', 0)
    end
    if callback ~= nil and type(callback) ~= 'function' then
      error('callback argument given to redis.register_function must be a function', 0)
    end
    if flags ~= nil and type(flags) ~= 'table' then
      error('flags argument to redis.register_function must be a table representing function flags', 0)
    end
    if name == nil then error('redis.register_function must get a function name argument', 0) end
    if callback == nil then error('redis.register_function must get a callback argument', 0) end
  else
    name, callback = ...
    if type(name) ~= 'string' then
      error('first argument to redis.register_function must be a string', 0)
    end
    if type(callback) ~= 'function' then
      error('second argument to redis.register_function must be a function', 0)
    end
  end
  flags = flags or {}
  for at = 1, #flags do
    if type(flags[at]) ~= 'string' or not flags_known[flags[at]] then error('unknown flag given', 0) end
  end
  if not name:find('^[%w_]+$') then
    error('Library names can only contain letters, numbers, or underscores(_) and must be at least one character long', 0)
  end
  for known in pairs(host.callbacks) do
    if known:lower() == name:lower() then error('Function already exists in the library', 0) end
  end
  host.callbacks[name] = callback
  host.registered[#host.registered + 1] = { name = name, description = description, flags = flags }
end

-- What a library finds while it is loaded: nothing but what it registers its functions with.
local offered = {
  register_function = register_function, log = redis.log,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REDIS_VERSION = version, REDIS_VERSION_NUM = version_number,
}
local library_api = strict(function(name) return offered[name] end)
local library = { redis = library_api, server = library_api }

local function text_only(load)
  return function(chunk, name)
    if type(chunk) == 'string' and chunk:byte(1) == 27 then
      return nil, 'bytecode is not loaded'
    end
    local loaded, why = load(chunk, name)
    if loaded then setfenv(loaded, host.environment) end
    return loaded, why
  end
end

-- Where something is in memory is not the same on another replica.
local function text_of(value)
  local kind = type(value)
  local is_somewhere = kind == 'table' or kind == 'function' or kind == 'thread' or kind == 'userdata'
  local meta = is_somewhere and getmetatable(value)
  if is_somewhere and not (type(meta) == 'table' and meta.__tostring) then return kind end
  return tostring(value)
end

local loadstring = loadstring
local random = host.random
math.random = function(least, most)
  local number = random()
  if least == nil then return number end
  if most == nil then least, most = 1, least end
  if least > most then error('interval is empty', 2) end
  return math.floor(number * (most - least + 1)) + least
end
math.randomseed = host.randomseed
-- Bytecode is not the same everywhere, and is not loaded.
string.dump = function() return '\27Lua' end

local environment = {
  assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next, pairs = pairs,
  pcall = function(...) return unless_over(pcall(...)) end,
  xpcall = function(...) return unless_over(xpcall(...)) end, rawequal = rawequal, rawget = rawget, select = select, tonumber = tonumber,
  tostring = text_of, type = type, unpack = unpack, _VERSION = _VERSION,
  collectgarbage = function() return 0 end,
  rawset = function(table, key, value)
    if getmetatable(table) == shield then readonly() end
    return rawset(table, key, value)
  end,
  setmetatable = function(table, meta)
    if getmetatable(table) == shield then readonly() end
    return setmetatable(table, meta)
  end,
  loadstring = text_only(loadstring),
  load = function(read, name)
    if type(read) ~= 'function' then error('bad argument #1 to \'load\' (function expected)', 2) end
    local parts = {}
    while true do
      local part = read()
      if part == nil or part == '' then break end
      parts[#parts + 1] = part
    end
    return text_only(loadstring)(table.concat(parts), name)
  end,
  string = protected(string), math = protected(math), -- How long a script has run is not either.
  os = protected({ clock = function() return 0 end }),
  bit = protected(host.bit), cjson = protected(host.cjson), redis = protected(redis), server = protected(redis),
  KEYS = host.keys, ARGV = host.argv,
}
if host.cmsgpack then
  environment.cmsgpack, environment.struct = protected(host.cmsgpack), protected(host.struct)
end
-- `table` by itself, since its functions are asked for by that name here, too.
environment.table = protected(table)
environment._G = strict(function(name)
  if host.loading then return library[name] end
  return environment[name]
end)
host.environment = environment._G
environment._G = host.environment
library._G = host.environment
return host.environment
