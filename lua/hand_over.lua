-- Gives a lock to the best waiter if it is free, or if it still holds the whole value that is to be taken back; with nobody
-- waiting, such a value is deleted. Serves probes (nothing to take back) and grants whose client has left.
-- KEYS: lock, fence counter   ARGV: fence floor, value to take back ('' for none), the best waiter (3, or none)
-- Returns: 'handed', fence | 'free' | 'held', value, pttl
local lock, counter, floor, taken_back = KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[2]
local best = 3
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
if value and (taken_back == '' or value ~= taken_back) then
  return {'held', value, redis.call('PTTL', lock)}
end
if ARGV[best] then
  -- include grant.lua
  local fence = grant(lock, counter, floor, best)
  if type(fence) ~= 'table' then return {'handed', fence} end
  if not value then return fence end
end
if value then
  local deleted = redis.pcall('DEL', lock)
  if type(deleted) == 'table' then return deleted end
end
return {'free'}
