-- SET NX on a lock key. A free one goes to the asker, or to the waiter of any node who ranks before him; a present key is another's,
-- whatever it holds. A refusal writes nothing, but that an asker who waits is registered if he is his node's best.
-- KEYS: lock, fence counter, queue
-- ARGV: fence floor, context (see turn.lua), value, its lease (see turn.lua), '', then as in acquire.lua
-- Returns: 1 set, 0 not set (a key that is no string), or what acquire.lua returns, with fence 0
local lock, queue = KEYS[1], KEYS[3]
local first, second = ARGV[7], ARGV[8]
local function take()
  local kind, time = ARGV[4]:sub(1, 1), ARGV[4]:sub(2)
  local written
  if kind == 'N' then
    written = redis.pcall('SET', lock, ARGV[3])
  else
    written = redis.pcall('SET', lock, ARGV[3], kind == 'A' and 'PXAT' or 'PX', time)
  end
  if written.err then return written end
  return 0
end
local exists = redis.pcall('EXISTS', lock, queue)
if type(exists) == 'table' then return exists end
if exists == 0 and not first then
  local taken = take()
  if type(taken) == 'table' then return taken end
  return 1
end
local value = redis.pcall('GET', lock)
if type(value) == 'table' then
  if value.err:find('WRONGTYPE', 1, true) then return 0 end
  return value
end
-- An asker who does not wait has nothing behind his rank.
if value and ARGV[6]:find('^%d*\31%d\31%d\31%d+\31%d+$') then return 0 end
-- include fence.lua
-- include queue.lua
-- include turn.lua
-- include ask.lua
if not value then return ask_free(take, first, second) end
return ask_held(value)
