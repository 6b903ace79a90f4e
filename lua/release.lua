-- Ends a hold and gives the lock to the best waiter of all nodes in the same step, so that the key is never free in between.
-- KEYS: lock, fence counter, queue
-- ARGV: fence floor, context (see turn.lua), owner, then in one, with 0x1F between them: fence ('' for any), '1' where a rule takes the
--   key for a lock, '1' to take it from whoever holds it; this node's best waiters (0 to 2)
-- Returns: 1 released, 0 another holds it (or another fence), -1 nobody does; {'no lock'} for data. Instead of 1 stands since when it was
--   held (Unix ms), where the value says so. Where somebody waits, and where it was taken from its holder:
--   1 or -1, time, 'handed', fence, call, registered | 1 or -1, time, 'claimed', value, call, registered |
--   1 or -1, time, 'free', registered
--   and, where it was taken from its holder, the value that it held, behind all of it; and 0, time where other nodes have waiters.
--   time is two elements, the upstream's seconds and microseconds, both empty where no other node has a waiter.
local lock, queue, owner, terms, first = KEYS[1], KEYS[3], ARGV[3], ARGV[4], ARGV[5]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
-- By far the most frequent case is spared the making of functions: the owner holds it, and nobody waits anywhere.
if value and not first and (terms == '\0311\0310' or terms == '\0310\0310') and value:sub(1, #owner) == owner then
  local since = value:match('^\31%d+\31[0-3]\31(%d+)\31[^\31?]*\31', #owner + 1)
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
  end
  if outcome ~= 0 then outcome = math.max(tonumber(since) or 1, 1) end
end
local is_taken = value and is_forced == '1'
-- A claim for another node's waiter took his registration with it, so that only that node knows who is next there: it becomes a claim of
-- no call's (`0`), which that node hands on. If it does not, that claim lapses, or is taken by the next who asks.
local asked, claimant, claim
if value and outcome ~= 0 then asked, claimant, claim = value:match('^[^\31]*\31%d+(\31[0-3]\31%d+\31)([^\31]*):([^\31:]*)%?\31') end
local is_claimed = claimant and claim ~= '0' and claimant ~= ARGV[2]:match('^%d+\31([^\31]*)\31') and redis.call('PTTL', lock) >= 0
if not is_claimed and not first and redis.call('EXISTS', queue) == 0 then
  if not value or outcome == 0 then return outcome end
  local deleted = redis.pcall('DEL', lock)
  if type(deleted) == 'table' then return deleted end
  return is_taken and {outcome, '', '', 'free', '', value} or outcome
end
-- include fence.lua
-- include queue.lua
-- include turn.lua
-- When it was released, for the other nodes: their calls of this owner end with it.
local function now()
  if not others_wait then return '', '' end
  local time = redis.call('TIME')
  return time[1], time[2]
end
if outcome == 0 then
  registered()
  return others_wait and {0, now()} or 0
end
local function back_to_its_node()
  local _, _, mine = registered()
  others_wait = true
  local waiter = with_newcomer(first, ARGV[6], mine)
  local turn = '\0310' .. asked .. claimant .. ':0?\31'
  local written = redis.pcall('SET', lock, turn, 'KEEPTTL')
  if written.err then return written end
  register(waiter, mine)
  return {'claimed', turn, '', call_of(waiter)}
end
local given = is_claimed and back_to_its_node() or take_turns(first, ARGV[6], value and tonumber(value:match('^[^\31]*\31(%d+)\31')))
-- A counter that cannot be raised (out of memory, say) must not keep the holder from releasing.
if not given or given.err then
  if value then
    local deleted = redis.pcall('DEL', lock)
    if type(deleted) == 'table' then return deleted end
  end
  given = {'free', call_of(first)}
end
local secs, micros = now()
local reply = {outcome, secs, micros, unpack(given)}
if is_taken then reply[#reply + 1] = value end
return reply
