-- Writes a lock that was exported, or kept elsewhere, where nothing stands in its key. Later fences come after it.
-- KEYS: lock, fence counter
-- ARGV: fence floor, lease in ms ('' for none), fence ('' for a new one, 'none' for a lock of SET NX), owner, what follows the fence in the value
-- Returns: the fence (0 for a lock of SET NX), or -1 where something stands there
local lock, counter = KEYS[1], KEYS[2]
local lease, fence, owner, rest = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('EXISTS', lock) == 1 then return -1 end
-- include fence.lua
local value = owner
if fence == '' then
  fence = fence_after(counter, tonumber(ARGV[1]), 0)
  if type(fence) == 'table' then return fence end
elseif fence ~= 'none' then
  fence = tonumber(fence)
  local last = redis.pcall('GET', counter)
  if type(last) ~= 'string' or (tonumber(last) or 0) < fence then redis.call('SET', counter, string.format('%.0f', fence)) end
end
if fence ~= 'none' then value = owner .. '\31' .. string.format('%.0f', fence) .. rest end
if lease == '' then
  redis.call('SET', lock, value)
else
  redis.call('SET', lock, value, 'PX', lease)
end
return fence == 'none' and 0 or fence
