-- Renews the lease of one grant, known by its whole value. Never shortens what the owner has extended himself, and never
-- touches a newer grant of the same owner.
-- KEYS: lock   ARGV: value, lease in ms   Returns: 1, or 0 when the lock holds another value or none.
local lock, mine, lease_ms = KEYS[1], ARGV[1], ARGV[2]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
if value ~= mine then return 0 end
local left = redis.call('PTTL', lock)
if left >= 0 and left < tonumber(lease_ms) then return redis.pcall('PEXPIRE', lock, lease_ms) end
return 1
