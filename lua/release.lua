-- Ends a hold and gives the lock to the best waiter of all nodes in the same step, so that the key is never free in between.
-- KEYS: lock, fence counter, queue
-- ARGV: fence floor, context (see turn.lua), owner, then in one, with 0x1F between them: fence ('' for any), '1' where a rule takes the
--   key for a lock, '1' to take it from whoever holds it; this node's best waiters (0 to 2)
-- Returns: 1 released, 0 another holds it (or another fence), -1 nobody does; {'no lock'} for data. Instead of 1 stands since when it was
--   held (Unix ms), where the value says so. Where somebody waits, and where it was taken from its holder:
--   1 or -1, 'handed', fence, call, registered | 1 or -1, 'claimed', value, call, registered | 1 or -1, 'free', registered
--   and, where it was taken from its holder, the value that it held, behind all of it
local lock, queue, owner, terms, first = KEYS[1], KEYS[3], ARGV[3], ARGV[4], ARGV[5]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
-- By far the most frequent case is spared the making of functions: the owner holds it, and nobody waits anywhere.
if value and not first and (terms == '\0311\0310' or terms == '\0310\0310') and value:sub(1, #owner) == owner then
  local since = value:match('^\31%d+\31[0-3]\31(%d+)\31[^\31]*\31', #owner + 1)
  if since and redis.call('EXISTS', queue) == 0 then
    local deleted = redis.pcall('DEL', lock)
    if type(deleted) == 'table' then return deleted end
    return math.max(tonumber(since), 1)
  end
end
local fence, is_rule_key, is_forced = terms:match('^(%d*)\31(%d)\31(%d)$')
local outcome = -1
if value then
  local since = value:match('^[^\31]*\31%d+\31[0-3]\31(%d+)\31[^\31]*\31')
  if is_forced == '1' then
    -- What only looks like a lock because it has an expiry (a session, say) is nobody's to free.
    if not since and is_rule_key ~= '1' then return {'no lock'} end
  else
    -- include holds.lua
    outcome = holds(lock, value, owner, fence, is_rule_key)
    if outcome == 'no lock' then return {outcome} end
    if outcome == 0 then return 0 end
  end
  outcome = math.max(tonumber(since) or 1, 1)
end
local function reply(parts)
  if value and is_forced == '1' then parts[#parts + 1] = value end
  return parts
end
local freed
if first or redis.call('EXISTS', queue) == 1 then
  -- include fence.lua
  -- include queue.lua
  -- include turn.lua
  -- A counter that cannot be raised (out of memory, say) must not keep the holder from releasing.
  local given = take_turns(first, ARGV[6], value and tonumber(value:match('^[^\31]*\31(%d+)\31')))
  if given and not given.err then return reply({outcome, given[1], given[2], given[3], given[4]}) end
  freed = {outcome, 'free', call_of(first)}
end
if value then
  local deleted = redis.pcall('DEL', lock)
  if type(deleted) == 'table' then return deleted end
end
if not freed and is_forced == '1' and value then freed = {outcome, 'free', ''} end
if freed then return reply(freed) end
return outcome
