-- Asks for a lock. A free one goes to the asker, or to the waiter of any node who ranks before him; the holder who asks again
-- keeps his fence and gets a fresh lease. A refusal writes nothing, but that an asker who waits is registered if he is his node's best.
-- KEYS: lock, fence counter, queue
-- ARGV: fence floor, context (see turn.lua), owner, lease in ms, what follows the fence in the value, the asker as a waiter (see ask.lua),
--   this node's best waiters (0 to 2)
-- Returns: the fence as an integer when the lock was free, or
--   'granted', fence, registered                        the same, where somebody waits
--   'handed' | 'claimed', fence | value, call, registered, time   somebody before the asker has it now (see hand_over.lua)
--   'repeat', value before, value now                   the asker held it; fence and acquired_at stand
--   'held', value, pttl, registered, time               another holds it
-- time is two elements, the upstream's seconds and microseconds.
local lock, counter, queue = KEYS[1], KEYS[2], KEYS[3]
local first, second = ARGV[7], ARGV[8]
local exists = redis.pcall('EXISTS', lock, queue)
if type(exists) == 'table' then return exists end
if exists == 0 and not first then
  -- By far the most frequent case is spared the making of functions: what fence.lua does where the counter is behind the clock.
  local time = redis.call('TIME')
  local fence = math.max(time[1] * 1000000 + time[2] + ARGV[2]:match('^%d+'), ARGV[1])
  local text = string.format('%.0f', fence)
  local last = redis.pcall('SET', counter, text, 'GET')
  if not last or (type(last) == 'string' and (tonumber(last) or 0) < fence) then
    local written = redis.pcall('SET', lock, ARGV[3] .. '\31' .. text .. ARGV[5], 'PX', ARGV[4])
    if written.err then return written end
    return fence
  end
  if type(last) == 'string' then redis.call('SET', counter, last) end
end
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
-- include fence.lua
-- include queue.lua
-- include turn.lua
-- include ask.lua
if not value then
  local function take()
    local fence = next_fence()
    if type(fence) == 'table' then return fence end
    local written = redis.pcall('SET', lock, ARGV[3] .. '\31' .. string.format('%.0f', fence) .. ARGV[5], 'PX', ARGV[4])
    if written.err then return written end
    return fence
  end
  return ask_free(take, first, second)
end
local owner = ARGV[3]
local holder, fence, acquired_at, call = value:match('^([^\31]*)\31(%d+)\31[0-3]\31(%d+)\31([^\31]*)\31')
if holder == owner and (owner ~= '' or fence ~= '0') then
  -- A `+` after the call says that it only repeats: were its answer lost, the hold that another call was told of must not be
  -- taken for its own. The same call sent twice stays what it was, and a claim is nobody's hold yet.
  local level, mine, meta = ARGV[5]:match('^\31([0-3])\31%d+\31([^\31]*)(\31.*)$')
  -- A call for several locks only wants to know: its own step takes what its owner holds by another call, or leaves it as it is.
  if meta == '\31lockgate:bridge' and call:sub(-1) ~= '?' then return {'repeat', value, value} end
  if call ~= mine and call:sub(-1) ~= '?' then mine = mine .. '+' end
  local now = owner .. '\31' .. fence .. '\31' .. level .. '\31' .. acquired_at .. '\31' .. mine .. meta
  local written = redis.pcall('SET', lock, now, 'PX', ARGV[4])
  if written.err then return written end
  return {'repeat', value, now}
end
return ask_held(value)
