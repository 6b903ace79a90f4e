-- Who holds a lock, and for how long. Writes nothing.
-- KEYS: lock   Returns: 'free' | 'held', value, pttl
local lock = KEYS[1]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
if not value then return {'free'} end
return {'held', value, redis.call('PTTL', lock)}
