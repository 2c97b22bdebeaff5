-- Appends one event. ARGV: 7 which key its list is (2, 3 or 4), 8 the element.
-- Returns {outcome, version}, outcome one of APPLIED, DUPLICATE, TOO_OLD; or {CONFLICT, version, stored element}.

local side, element = tonumber(ARGV[7]), ARGV[8]
local time, key = time_of(element), key_of(element)

local function unchanged(outcome, stored) return { outcome, version_text(), stored } end

if bytes_before(time, cutoff) or (erased ~= '' and not bytes_before(erased, time)) then
  return unchanged('TOO_OLD')
end

local lists, heads = {}, {}
local id = element:sub(9, 10 + id_length(element))
for i = 2, 4 do
  local list = redis.call('LRANGE', KEYS[i], 0, -1)
  lists[i], heads[i] = list, expired(list)
  -- One search through all bytes, and only where that finds something, one through the elements.
  if #list > 0 and table.concat(list):find(id, 1, true) then
    for n = #list, heads[i] + 1, -1 do
      local stored = list[n]
      if stored:sub(9, 8 + #id) == id then
        if stored == element then return unchanged('DUPLICATE') end
        return unchanged('CONFLICT', stored)
      end
    end
  end
end

-- The place among the elements as they are stored; the newest end is the likely one.
local list = lists[side]
local after = #list
while after > heads[side] and bytes_before(key, key_of(list[after])) do after = after - 1 end

local place = after - heads[side] + 1

for i = 2, 3 do
  local length = #lists[i] - heads[i] + (i == side and 1 or 0)
  local surplus = math.max(0, length - max_events[i])
  if i == side and place <= surplus then return unchanged('TOO_OLD') end
  heads[i] = heads[i] + surplus
end

-- What will be left of a list, with the new element in its place, which is behind the head that goes.
local function rest_of(i)
  if i ~= side then return without_head(lists[i], heads[i]) end
  local rest = {}
  for n = heads[i] + 1, after do rest[#rest + 1] = lists[i][n] end
  rest[#rest + 1] = element
  for n = after + 1, #lists[i] do rest[#rest + 1] = lists[i][n] end
  return rest
end

local dropped = {}
if side ~= 2 or heads[3] > 0 then
  dropped = surplus_clicks(rest_of(3), rest_of(4))
  if side == 4 then
    for i = 1, #dropped do
      if dropped[i] == element then return unchanged('TOO_OLD') end
    end
  end
end

-- From here on everything is written, or Redis itself fails.
if after == #list then
  redis.call('RPUSH', KEYS[side], element)
else
  redis.call('LINSERT', KEYS[side], 'BEFORE', list[after + 1], element)
end
for i = 2, 4 do drop_head(i, heads[i]) end
drop_clicks(dropped)
step_version()

local newest = time
for i = 2, 4 do
  local last = lists[i][#lists[i]]
  if last and bytes_before(newest, time_of(last)) then newest = time_of(last) end
end
if bytes_before(newest, erased) then newest = erased end
renew_expiry(newest)
return { 'APPLIED', version_text() }
