-- Takes several locks, all or none. Those that the asker holds already keep their fence, level, acquired_at and meta, and get a fresh
-- lease and the name of this call: whatever was about to take the old value back leaves them alone. A refusal writes nothing.
-- KEYS: lock 1 … n, queue 1 … n, fence counter
-- ARGV: fence floor, owner, lease in ms, what follows the fence in a new value, the meta of a bridge (a lock that such a call holds
--   for the moment until this step), µs by which fences run ahead of the upstream's clock, then for each lock '1' where a rule takes the
--   key for a lock
-- Returns: 'granted', then for each lock its fence as an integer where it was free, or {value before, value now} where the asker
--   held it
--   'in the way', number, is bridge   another holds that lock (1: as a bridge), or it is free and somebody waits for it; the first
--   'no lock', number      that key is data
local n = (#KEYS - 1) / 2
local counter, floor = KEYS[#KEYS], tonumber(ARGV[1])
local owner, lease_ms, tail, bridge = ARGV[2], ARGV[3], ARGV[4], '\31' .. ARGV[5]
local own_call = tail:match('^\31[0-3]\31%d+\31([^\31]*)\31')
local mine, left_ms = {}, {}
-- include queue.lua
for i = 1, n do
  local value = redis.pcall('GET', KEYS[i])
  if type(value) == 'table' then return value end
  if value then
    local holder, call, meta = value:match('^([^\31]*)\31%d+\31[0-3]\31%d+\31([^\31]*)(\31.*)$')
    -- A claim that nobody has confirmed is nobody's hold yet.
    if holder ~= owner or call:sub(-1) == '?' then
      if not holder and ARGV[6 + i] ~= '1' and redis.call('PTTL', KEYS[i]) == -1 then return {'no lock', i} end
      return {'in the way', i, meta == bridge and 1 or 0}
    end
    left_ms[i] = redis.call('PTTL', KEYS[i])
  else
    local has_queue = redis.pcall('EXISTS', KEYS[n + i])
    if type(has_queue) == 'table' then return has_queue end
    if has_queue == 1 and #waiters_in(KEYS[n + i]) > 0 then return {'in the way', i, 0} end
  end
  mine[i] = value
end
-- include fence.lua
local reply = {'granted'}
-- What the upstream does not let us write after all must not leave a half.
local function refused(error, count)
  for i = 1, count do
    if not mine[i] then
      redis.pcall('DEL', KEYS[i])
    elseif left_ms[i] > 0 then
      redis.pcall('SET', KEYS[i], mine[i], 'PX', left_ms[i])
    else
      redis.pcall('SET', KEYS[i], mine[i])
    end
  end
  return error
end
for i = 1, n do
  if mine[i] then
    local head, call, meta = mine[i]:match('^([^\31]*\31%d+\31[0-3]\31%d+\31)([^\31]*)(\31.*)$')
    if meta == bridge then meta = '\31' end
    -- A `+` says that the call only repeats, see acquire.lua.
    local now = head .. (call == own_call and call or own_call .. '+') .. meta
    local written = redis.pcall('SET', KEYS[i], now, 'PX', lease_ms)
    if written.err then return refused(written, i - 1) end
    reply[i + 1] = {mine[i], now}
  else
    local fence = fence_after(counter, floor, tonumber(ARGV[6]))
    if type(fence) == 'table' then return refused(fence, i - 1) end
    local value = owner .. '\31' .. string.format('%.0f', fence) .. tail
    local written = redis.pcall('SET', KEYS[i], value, 'PX', lease_ms)
    if written.err then return refused(written, i - 1) end
    reply[i + 1] = fence
  end
end
return reply
