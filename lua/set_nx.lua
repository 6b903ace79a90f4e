-- SET NX on a lock key. A free one goes to the asker, or to the waiter of any node who ranks before him; a present key is another's,
-- whatever it holds. A refusal writes nothing, but that an asker who waits is registered if he is his node's best.
-- KEYS: lock, fence counter, queue
-- ARGV: fence floor, node, when it was sent (Unix µs), ms to keep a queue, until when it knows, how far fences run ahead, value, its lease (see turn.lua), '' , then as in acquire.lua
-- Returns: 1 set, 0 not set (a key that is no string), or what acquire.lua returns, with fence 0
local lock, queue = KEYS[1], KEYS[3]
local first, second = ARGV[15], ARGV[16]
local function take()
  local kind, time = ARGV[8]:sub(1, 1), ARGV[8]:sub(2)
  local written
  if kind == 'N' then
    written = redis.pcall('SET', lock, ARGV[7])
  else
    written = redis.pcall('SET', lock, ARGV[7], kind == 'A' and 'PXAT' or 'PX', time)
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
if value and ARGV[10] == '' then return 0 end
-- include turn.lua
-- include ask.lua
if not value then return ask_free(take, first, second) end
return ask_held(value)
