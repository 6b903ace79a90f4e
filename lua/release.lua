-- Ends a hold and gives the lock to the best waiter of all nodes in the same step, so that the key is never free in between.
-- KEYS: lock, fence counter, queue
-- ARGV: fence floor, context (see turn.lua), owner, fence ('' for any), '1' where a rule takes the key for a lock, '1' to take it from
--   whoever holds it, this node's best waiters (0 to 2)
-- Returns: 1 released, 0 another holds it (or another fence), -1 nobody does; {'no lock'} for data; where somebody waits:
--   1 or -1, 'handed', fence, call, registered | 1 or -1, 'claimed', value, call, registered | 1 or -1, 'free', registered
local lock, queue, owner, fence, is_rule_key, is_forced = KEYS[1], KEYS[3], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local first = ARGV[7]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
local outcome = -1
if value then
  -- include holds.lua
  outcome = holds(lock, value, owner, fence, is_rule_key)
  if outcome == 'no lock' then return {outcome} end
  if is_forced == '1' then outcome = 1 end
  if outcome == 0 then return 0 end
end
local freed
if first or redis.call('EXISTS', queue) == 1 then
  -- include turn.lua
  -- A counter that cannot be raised (out of memory, say) must not keep the holder from releasing.
  local given = take_turns(first, ARGV[8])
  if given and not given.err then return {outcome, given[1], given[2], given[3], given[4]} end
  freed = {outcome, 'free', call_of(first)}
end
if value then
  local deleted = redis.pcall('DEL', lock)
  if type(deleted) == 'table' then return deleted end
end
return freed or outcome
