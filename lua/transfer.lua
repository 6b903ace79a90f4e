-- Gives a lock from its holder to another owner under a new fence; who waits in line is passed over. Level and meta stay.
-- KEYS: lock, fence counter
-- ARGV: fence floor, from, fence ('' for any), '1' where a rule takes the key for a lock, to, Unix ms, node:call,
--   lease in ms ('' for what is left of the present one), µs by which fences run ahead of the upstream's clock
-- Returns: {'moved', value, pttl, since when its giver held it (Unix ms; 0 where the value does not say)}; 0 when `from` does not hold it (under that fence); {'no lock'} for data
local lock, from, fence, is_rule_key, lease_ms = KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[8]
local value = redis.pcall('GET', lock)
if type(value) == 'table' then return value end
if not value then return 0 end
-- include holds.lua
local outcome = holds(lock, value, from, fence, is_rule_key)
if outcome == 'no lock' then return {outcome} end
if outcome == 0 then return 0 end
local held, level, since, call, meta = value:match('^[^\31]*\31(%d+)\31([0-3])\31(%d+)\31([^\31]*)\31(.*)$')
-- A claim that nobody has confirmed is nobody's to give away.
if call and call:sub(-1) == '?' then return 0 end
local left = redis.call('PTTL', lock)
-- include fence.lua
local new_fence = fence_after(KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[9]), held and tonumber(held))
if type(new_fence) == 'table' then return new_fence end
local fields = {ARGV[5], string.format('%.0f', new_fence), level or '1', ARGV[6], ARGV[7], meta or ''}
local moved = table.concat(fields, '\31')
local written
if lease_ms == '' then
  written = redis.pcall('SET', lock, moved, 'KEEPTTL')
else
  written = redis.pcall('SET', lock, moved, 'PX', lease_ms)
  left = tonumber(lease_ms)
end
if written.err then return written end
return {'moved', moved, left, tonumber(since) or 0}
