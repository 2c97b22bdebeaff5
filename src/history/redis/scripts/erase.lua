-- Forgets a user's events up to now, or up to the newest should that lie in the future. Returns the new version.

local through = time_bytes(now)
if bytes_before(through, erased) then through = erased end
for i = 2, 4 do
  local newest = redis.call('LINDEX', KEYS[i], -1)
  if newest and bytes_before(through, time_of(newest)) then through = time_of(newest) end
end
erased = through
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
step_version()
renew_expiry(through)
return version_text()
