-- A node's own turn at a lock: confirms a claim, takes back a grant that met nobody, or just looks; a free lock goes to the best
-- waiter of all nodes. Either way this node's best waiter is registered afterwards.
-- KEYS: lock, fence counter, queue
-- ARGV: fence floor, context (see turn.lua), what to do: '' | 'back' | 'confirm', the whole value that is to be taken back or confirmed,
--   the confirmed value, its lease (see turn.lua), the confirmed call, this node's best waiters (0 to 2)
-- Returns, with the call of this node that is registered now, or '':
--   'handed', fence, call, registered      a waiter of this node has it
--   'claimed', value, call, registered     call is '' for another node's waiter
--   'confirmed', registered | 'free', registered | 'held', value, pttl, registered
--   'over', registered     the moment until which the confirmed call wanted the lock has passed by the upstream's clock; the claim
--     stands until its node takes it back
local lock = KEYS[1]
local what, expected, confirmed, lease, confirmed_call = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local value = redis.pcall('GET', lock)
-- include fence.lua
-- include queue.lua
-- include turn.lua
if type(value) == 'table' then
  -- No lock: nobody waits for it any more.
  redis.pcall('HDEL', KEYS[3], me)
  return value
end
local first, second = ARGV[8], ARGV[9]
local mine
if value then
  -- Where the lock is free `take_turns` looks itself.
  mine = own_registration()
  first, second = with_newcomer(first, second, mine)
end
local kind, time = lease:sub(1, 1), lease:sub(2)
if what == 'confirm' and value == expected then
  if call_of(first) == confirmed_call then first = second end
  if kind == 'A' then
    local now = redis.call('TIME')
    if tonumber(time) <= now[1] * 1000 + math.floor(now[2] / 1000) then
      register(first, mine)
      return {'over', call_of(first)}
    end
  end
  local written
  if kind == 'N' then
    written = redis.pcall('SET', lock, confirmed)
  else
    written = redis.pcall('SET', lock, confirmed, kind == 'A' and 'PXAT' or 'PX', time)
  end
  if written.err then return written end
  register(first, mine)
  return {'confirmed', call_of(first)}
end
if value and not (what == 'back' and value == expected) then
  register(first, mine)
  return {'held', value, redis.call('PTTL', lock), call_of(first)}
end
local given = take_turns(first, second, value and tonumber(value:match('^[^\31]*\31(%d+)\31')))
if given then
  -- Out of memory, say: what is to be taken back still is.
  if given.err and not value then return given end
  if not given.err then return given end
end
if value then
  local deleted = redis.pcall('DEL', lock)
  if type(deleted) == 'table' then return deleted end
end
return {'free', ''}
