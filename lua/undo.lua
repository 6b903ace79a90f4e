-- Takes back what a SET NX has just written: the value, unless its lease is longer than what can be left of that one.
-- KEYS: lock   ARGV: value, most ms that can be left of its lease ('' where it has none)   Returns: 1 taken back, 0 it is another's
local lock, mine, left_max = KEYS[1], ARGV[1], ARGV[2]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
if value ~= mine then return 0 end
local left = redis.call('PTTL', lock)
if left_max == '' then
  if left ~= -1 then return 0 end
elseif left < 0 or left > tonumber(left_max) then
  return 0
end
return redis.pcall('DEL', lock)
