-- Shared by all scripts. The rules are those of timeline.rs, which is the specification.
--
-- KEYS  1 meta   string: version, 16 decimal digits; then, once the user was erased, the erasure's time, 8 bytes
--       2 recommendations, 3 searches, 4 clicks   lists, oldest first, of elements:
--         time (8 bytes, nanoseconds, big endian), length of event id (2), event id, length of search id (2), search id
--         (empty for recommendations), value (schema byte, protobuf)
--       5 index   set of integers: 52 bits of a hash of each stored event id, and minus the version that it belongs to
-- ARGV  1 max recommendations, 2 max searches, 3 max clicks, 4 max pending clicks,
--       5 time to live in microseconds or '', 6 now in microseconds or '' for the server's clock
--
-- Strings are compared byte by byte: Lua's < follows the server's locale. Times are never numbers: a double holds 53 bits.

local function bytes_before(a, b)
  if a == b then return false end
  local shorter = math.min(#a, #b)
  for i = 1, shorter do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Microseconds (exact in a double until the year 2255) as the 8 bytes of an element's time.
local function time_bytes(micros)
  local high, low = math.floor(micros / 4294967296), micros % 4294967296
  low = low * 1000
  high = high * 1000 + math.floor(low / 4294967296)
  return struct.pack('>I4I4', high, low % 4294967296)
end

-- The way back, rounded: for expiry of whole keys only.
local function time_micros(bytes)
  local high, low = struct.unpack('>I4I4', bytes)
  return (high * 4294967296 + low) / 1000
end

local function time_of(element) return element:sub(1, 8) end

local function id_length(element)
  local high, low = element:byte(9, 10)
  return high * 256 + low
end

local function id_of(element) return element:sub(11, 10 + id_length(element)) end

-- What elements are ordered by.
local function key_of(element) return element:sub(1, 8) .. element:sub(11, 10 + id_length(element)) end

local function search_id_of(element)
  local start = 11 + id_length(element)
  local high, low = element:byte(start, start + 1)
  return element:sub(start + 2, start + 1 + high * 256 + low)
end

local max_events = { nil, tonumber(ARGV[1]), tonumber(ARGV[2]), math.huge }
local max_clicks, max_pending = tonumber(ARGV[3]), tonumber(ARGV[4])
local time_to_live = tonumber(ARGV[5])

local now
if ARGV[6] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
else
  now = tonumber(ARGV[6])
end

local cutoff = string.rep('\0', 8)
if time_to_live then cutoff = time_bytes(math.max(0, now - time_to_live)) end

local meta = redis.call('GET', KEYS[1]) or ''
local version = tonumber(meta:sub(1, 16)) or 0
local erased = meta:sub(17)

local function version_text() return string.format('%016.0f', version) end

-- Lets every key live as long as its newest event, or the erasure, may matter; renewed only when that is much longer
-- than before, since every renewal is replicated. A minute more forgives clocks that differ.
local function renew_expiry(newest)
  for i = 1, 5 do
    local left = redis.call('PTTL', KEYS[i])
    if left ~= -2 then
      if not time_to_live then
        if left ~= -1 then redis.call('PERSIST', KEYS[i]) end
      else
        local needed = math.ceil((time_to_live + math.max(0, time_micros(newest) - now)) / 1000) + 60000
        if left == -1 or left < needed then
          redis.call('PEXPIRE', KEYS[i], string.format('%.0f', needed + math.floor(needed / 16)))
        end
      end
    end
  end
end

local function step_version()
  version = math.max(version + 1, now)
  redis.call('SET', KEYS[1], version_text() .. erased, 'KEEPTTL')
end

-- The index tells, without a look at the lists, that an event id is not stored. It may be used only if it belongs to the
-- present version, so not after a script that doesn't keep it, and if it has one hash per element, so not after the loss
-- of a key and not while two ids share a hash. Elements of `count` in all lists.
local function index_is_current(count)
  return redis.call('SISMEMBER', KEYS[5], string.format('-%.0f', version)) == 1
    and redis.call('SCARD', KEYS[5]) == count + 1
end

local function hash_of(element)
  return string.format('%.0f', tonumber(redis.sha1hex(id_of(element)):sub(1, 13), 16))
end

local function change_index(command, members)
  -- Lua's stack has room for so many arguments.
  for i = 1, #members, 1000 do
    redis.call(command, KEYS[5], unpack(members, i, math.min(i + 999, #members)))
  end
end

-- After step_version: a current index, from what has gone and what has come.
local function update_index(before, gone, come)
  local old, new = { string.format('-%.0f', before) }, { string.format('-%.0f', version) }
  for i = 1, #gone do old[#old + 1] = hash_of(gone[i]) end
  if come then
    -- An event that has expired may come again under the same id.
    new[2] = hash_of(come)
    change_index('SREM', old)
    change_index('SADD', new)
  else
    -- In this order the key is never empty, and so keeps its expiry.
    change_index('SADD', new)
    change_index('SREM', old)
  end
end

-- After step_version: a current index, from what is stored.
local function rebuild_index()
  local members = { string.format('-%.0f', version) }
  for i = 2, 4 do
    local list = redis.call('LRANGE', KEYS[i], 0, -1)
    for n = 1, #list do members[#members + 1] = hash_of(list[n]) end
  end
  redis.call('UNLINK', KEYS[5])
  change_index('SADD', members)
end

local function expired(list)
  local count = 0
  while count < #list and bytes_before(time_of(list[count + 1]), cutoff) do count = count + 1 end
  return count
end

local function without_head(list, count)
  if count == 0 then return list end
  local rest = {}
  for i = count + 1, #list do rest[#rest + 1] = list[i] end
  return rest
end

local function without(list, dropped)
  local known, rest = {}, {}
  for i = 1, #dropped do known[dropped[i]] = true end
  for i = 1, #list do
    if not known[list[i]] then rest[#rest + 1] = list[i] end
  end
  return rest
end

-- Which clicks the rules have no place for, given the kept searches.
local function surplus_clicks(searches, clicks)
  local dropped = {}
  if #clicks == 0 then return dropped end
  local known, per_search = {}, {}
  for i = 1, #searches do known[search_id_of(searches[i])] = true end
  local full = #searches >= max_events[3]
  local floor = full and #searches > 0 and time_of(searches[1])
  local function waits(click)
    return max_events[3] > 0 and not (floor and bytes_before(time_of(click), floor))
  end
  local pending, search_ids = 0, {}
  for i = 1, #clicks do
    search_ids[i] = search_id_of(clicks[i])
    if not known[search_ids[i]] and waits(clicks[i]) then pending = pending + 1 end
  end
  local surplus = math.max(0, pending - max_pending)
  for i = 1, #clicks do
    local search_id = search_ids[i]
    if known[search_id] then
      local count = (per_search[search_id] or 0) + 1
      per_search[search_id] = count
      if count > max_clicks then dropped[#dropped + 1] = clicks[i] end
    elseif not waits(clicks[i]) then
      dropped[#dropped + 1] = clicks[i]
    elseif surplus > 0 then
      surplus = surplus - 1
      dropped[#dropped + 1] = clicks[i]
    end
  end
  return dropped
end

-- Both add what has gone to `gone`.
local function drop_head(i, count, gone)
  local head = count > 0 and redis.call('LPOP', KEYS[i], count) or {}
  for n = 1, #head do gone[#gone + 1] = head[n] end
end

local function drop_clicks(dropped, gone)
  for i = 1, #dropped do
    redis.call('LREM', KEYS[4], 1, dropped[i])
    gone[#gone + 1] = dropped[i]
  end
end
