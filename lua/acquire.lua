-- Asks for a lock. A free one goes to the asker, or to the waiter who ranks before him; the holder who asks again keeps his
-- fence and gets a fresh lease; a refusal writes nothing.
-- KEYS: lock, fence counter   ARGV: fence floor, the asker (3), the waiter who ranks before him (3, or none)
-- Returns: the fence as an integer when the lock was free, or
--   'handed', fence, time               the waiter before the asker has it now
--   'repeat', value before, value now   the asker held it; fence and acquired_at stand
--   'held', value, pttl, time           another holds it
-- time is two elements, the upstream's seconds and microseconds.
local lock, counter, floor = KEYS[1], KEYS[2], tonumber(ARGV[1])
local asker, before = 2, 5
local exists = redis.pcall('EXISTS', lock)
if type(exists) == 'table' then return exists end
if exists == 0 and not ARGV[before] then
  -- By far the most frequent case is spared the making of functions.
  local fence = redis.pcall('INCR', counter)
  if type(fence) == 'table' then return fence end
  if fence >= floor then
    local value = ARGV[asker] .. '\31' .. string.format('%.0f', fence) .. ARGV[asker + 2]
    local written = redis.pcall('SET', lock, value, 'PX', ARGV[asker + 1])
    if written.err then return written end
    return fence
  end
end
-- include grant.lua
if exists == 0 then
  if not ARGV[before] then return grant(lock, counter, floor, asker) end
  local fence = grant(lock, counter, floor, before)
  if type(fence) == 'table' then return fence end
  local time = redis.call('TIME')
  return {'handed', fence, time[1], time[2]}
end

local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
local owner = ARGV[asker]
local holder, fence, acquired_at, call = value:match('^([^\31]*)\31(%d+)\31[0-3]\31(%d+)\31([^\31]*)\31')
if holder == owner then
  -- A `+` after the call says that it only repeats: were its answer lost, the hold that another call was told of must not be
  -- taken for its own. The same call sent twice stays what it was.
  local level, mine, meta = ARGV[asker + 2]:match('^\31([0-3])\31%d+\31([^\31]*)(\31.*)$')
  if call ~= mine then mine = mine .. '+' end
  local now = owner .. '\31' .. fence .. '\31' .. level .. '\31' .. acquired_at .. '\31' .. mine .. meta
  local written = redis.pcall('SET', lock, now, 'PX', ARGV[asker + 1])
  if written.err then return written end
  return {'repeat', value, now}
end
local time = redis.call('TIME')
return {'held', value, redis.call('PTTL', lock), time[1], time[2]}
