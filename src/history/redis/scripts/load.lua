-- Reads a user. ARGV: 7 the version that the caller has, or ''.
-- Returns {version} if that is the current one, else {version, erasure, recommendations, searches, clicks}, and 'UNWRITTEN'
-- where that is less than the version names.

local due = false
for i = 2, 4 do
  local oldest = redis.call('LINDEX', KEYS[i], 0)
  if oldest and bytes_before(time_of(oldest), cutoff) then due = true end
  if i < 4 and redis.call('LLEN', KEYS[i]) > max_events[i] then due = true end
end

if due then
  local lists, heads = {}, {}
  for i = 2, 4 do
    local list = redis.call('LRANGE', KEYS[i], 0, -1)
    heads[i] = expired(list)
    if i < 4 then heads[i] = math.max(heads[i], #list - max_events[i]) end
    lists[i] = without_head(list, heads[i])
  end
  local dropped = surplus_clicks(lists[3], lists[4])
  -- Changes nothing. A server that takes no writes now (a replica, or one that misses its own, or can't save) says so here,
  -- and answers reads all the same.
  if redis.pcall('LTRIM', KEYS[2], 0, -1).err then
    return { version_text(), erased, lists[2], lists[3], without(lists[4], dropped), 'UNWRITTEN' }
  end
  local gone, before = {}, version
  local count = redis.call('LLEN', KEYS[2]) + redis.call('LLEN', KEYS[3]) + redis.call('LLEN', KEYS[4])
  local indexed = index_is_current(count)
  for i = 2, 4 do drop_head(i, heads[i], gone) end
  drop_clicks(dropped, gone)
  step_version()
  if indexed then update_index(before, gone) end
  -- A meta key that was lost is made anew without an expiry.
  if time_to_live and redis.call('PTTL', KEYS[1]) == -1 then
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(time_to_live / 1000) + 60000))
  end
end

if version_text() == ARGV[7] then return { version_text() } end
return {
  version_text(),
  erased,
  redis.call('LRANGE', KEYS[2], 0, -1),
  redis.call('LRANGE', KEYS[3], 0, -1),
  redis.call('LRANGE', KEYS[4], 0, -1),
}
