-- Takes several locks, all or none. Those that the asker holds already keep their value, and with it their fence and the call it
-- names, and get a fresh lease. A refusal writes nothing.
-- KEYS: lock 1 … n, queue 1 … n, fence counter
-- ARGV: fence floor, owner, lease in ms, what follows the fence in a new value, then for each lock '1' where a rule takes the key
--   for a lock
-- Returns: 'granted', then for each lock its fence as an integer where it was free, or its value where the asker held it
--   'in the way', number   another holds that lock, or it is free and somebody waits for it
--   'no lock', number      that key is data
local n = (#KEYS - 1) / 2
local counter, floor = KEYS[#KEYS], tonumber(ARGV[1])
local owner, lease_ms, tail = ARGV[2], ARGV[3], ARGV[4]
local mine = {}
for i = 1, n do
  local value = redis.pcall('GET', KEYS[i])
  if type(value) == 'table' then return value end
  if value then
    local holder, call = value:match('^([^\31]*)\31%d+\31[0-3]\31%d+\31([^\31]*)\31')
    -- A claim that nobody has confirmed is nobody's hold yet.
    if holder ~= owner or call:sub(-1) == '?' then
      if not holder and ARGV[4 + i] ~= '1' and redis.call('PTTL', KEYS[i]) == -1 then return {'no lock', i} end
      return {'in the way', i}
    end
  else
    local has_queue = redis.pcall('EXISTS', KEYS[n + i])
    if type(has_queue) == 'table' then return has_queue end
    if has_queue == 1 then return {'in the way', i} end
  end
  mine[i] = value
end
-- include fence.lua
local reply = {'granted'}
-- What the upstream does not let us write after all must not leave a half.
local function refused(error, count)
  for i = 1, count do
    if not mine[i] then redis.call('DEL', KEYS[i]) end
  end
  return error
end
for i = 1, n do
  if mine[i] then
    local set = redis.pcall('PEXPIRE', KEYS[i], lease_ms)
    if type(set) == 'table' then return refused(set, i - 1) end
    reply[i + 1] = mine[i]
  else
    local fence = fence_after(counter, floor)
    if type(fence) == 'table' then return refused(fence, i - 1) end
    local value = owner .. '\31' .. string.format('%.0f', fence) .. tail
    local written = redis.pcall('SET', KEYS[i], value, 'PX', lease_ms)
    if written.err then return refused(written, i - 1) end
    reply[i + 1] = fence
  end
end
return reply
