-- Ends a hold and gives the lock to the best waiter in the same step, so that the key is never free in between.
-- KEYS: lock, fence counter
-- ARGV: fence floor, owner, fence ('' for any), '1' where a rule takes the key for a lock, the best waiter (3, or none)
-- Returns: 1 released, 0 another holds it (or another fence), -1 nobody does; {1 or -1, fence} when the waiter has it now;
--   {'no lock'} for data
local lock, counter, floor, owner, fence, is_rule_key = KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local best = 5
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
local outcome = -1
if value then
  -- include holds.lua
  outcome = holds(lock, value, owner, fence, is_rule_key)
  if outcome == 'no lock' then return {outcome} end
  if outcome == 0 then return 0 end
end
if ARGV[best] then
  -- include grant.lua
  -- A counter that cannot be raised (out of memory, say) must not keep the holder from releasing.
  local handed = grant(lock, counter, floor, best)
  if type(handed) ~= 'table' then return {outcome, handed} end
end
if value then
  local deleted = redis.pcall('DEL', lock)
  if type(deleted) == 'table' then return deleted end
end
return outcome
