-- Sets the lease of the owner who holds the lock; never brings an expired one back.
-- KEYS: lock   ARGV: owner, fence ('' for any), lease in ms, '1' where a rule takes the key for a lock
-- Returns: 1; 0 when another holds it (or another fence); -1 when nobody does; {'no lock'} for data
local lock, owner, fence, lease_ms, is_rule_key = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
if not value then return -1 end
-- A claim is nobody's lock before it is confirmed, and its short lease is what keeps the dead from holding anybody up.
if value:find('^[^\31]*\31%d+\31[0-3]\31%d+\31[^\31]*%?\31') then return 0 end
-- include holds.lua
local outcome = holds(lock, value, owner, fence, is_rule_key)
if outcome == 'no lock' then return {outcome} end
if outcome == 0 then return 0 end
return redis.pcall('PEXPIRE', lock, lease_ms)
