-- Appends one event. ARGV: 7 which key its list is (2, 3 or 4), 8 the element.
-- Returns {outcome, version}, outcome one of APPLIED, DUPLICATE, TOO_OLD; or {CONFLICT, version, stored element}.

local side, element = tonumber(ARGV[7]), ARGV[8]
local time, key = time_of(element), key_of(element)

local function unchanged(outcome, stored) return { outcome, version_text(), stored } end

if bytes_before(time, cutoff) or (erased ~= '' and not bytes_before(erased, time)) then
  return unchanged('TOO_OLD')
end

-- Whole lists are read only where their ends don't tell enough: most events are new, and newer than what is stored.
local lists = {}
local function list_of(i)
  lists[i] = lists[i] or redis.call('LRANGE', KEYS[i], 0, -1)
  return lists[i]
end

local lengths, heads = {}, {}
for i = 2, 4 do
  lengths[i], heads[i] = redis.call('LLEN', KEYS[i]), 0
  if lengths[i] > 0 and bytes_before(time_of(redis.call('LINDEX', KEYS[i], 0)), cutoff) then
    heads[i] = expired(list_of(i))
  end
end

local indexed = index_is_current(lengths[2] + lengths[3] + lengths[4])
if not indexed or redis.call('SISMEMBER', KEYS[5], hash_of(element)) == 1 then
  -- Replays are mostly of the same bytes, and of something recent.
  if redis.call('LPOS', KEYS[side], element, 'RANK', -1) then return unchanged('DUPLICATE') end
  local id = element:sub(9, 10 + id_length(element))
  for i = 2, 4 do
    local list = list_of(i)
    -- One search through all bytes, and only where that finds something, one through the elements.
    if #list > 0 and table.concat(list):find(id, 1, true) then
      for n = #list, heads[i] + 1, -1 do
        local stored = list[n]
        if stored:sub(9, 8 + #id) == id then return unchanged('CONFLICT', stored) end
      end
    end
  end
end

-- The place among the elements as they are stored; the newest end is the likely one.
local after, last = lengths[side], {}
for i = 2, 4 do
  last[i] = lengths[i] > 0 and redis.call('LINDEX', KEYS[i], -1)
end
if last[side] and bytes_before(key, key_of(last[side])) then
  local list = list_of(side)
  while after > heads[side] and bytes_before(key, key_of(list[after])) do after = after - 1 end
end

local place = after - heads[side] + 1

for i = 2, 3 do
  local length = lengths[i] - heads[i] + (i == side and 1 or 0)
  local surplus = math.max(0, length - max_events[i])
  if i == side and place <= surplus then return unchanged('TOO_OLD') end
  heads[i] = heads[i] + surplus
end

-- What will be left of a list, with the new element in its place, which is behind the head that goes.
local function rest_of(i)
  local list = list_of(i)
  if i ~= side then return without_head(list, heads[i]) end
  local rest = {}
  for n = heads[i] + 1, after do rest[#rest + 1] = list[n] end
  rest[#rest + 1] = element
  for n = after + 1, #list do rest[#rest + 1] = list[n] end
  return rest
end

local dropped = {}
if side == 4 or (lengths[4] > 0 and (side == 3 or heads[3] > 0)) then
  dropped = surplus_clicks(rest_of(3), rest_of(4))
  if side == 4 then
    for i = 1, #dropped do
      if dropped[i] == element then return unchanged('TOO_OLD') end
    end
  end
end

-- From here on everything is written, or Redis itself fails.
if after == lengths[side] then
  redis.call('RPUSH', KEYS[side], element)
else
  redis.call('LINSERT', KEYS[side], 'BEFORE', list_of(side)[after + 1], element)
end
local gone, before = {}, version
for i = 2, 4 do drop_head(i, heads[i], gone) end
drop_clicks(dropped, gone)
step_version()
if indexed then update_index(before, gone, element) else rebuild_index() end

local newest = time
for i = 2, 4 do
  if last[i] and bytes_before(newest, time_of(last[i])) then newest = time_of(last[i]) end
end
if bytes_before(newest, erased) then newest = erased end
renew_expiry(newest)
return { 'APPLIED', version_text() }
