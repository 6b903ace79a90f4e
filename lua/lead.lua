-- Takes the lead among the nodes if nobody has it, keeps it if this node does, or lays it down.
-- KEYS: leader   ARGV: node and instance, lease in ms (0 to lay it down)   Returns: 1 where this node leads now, else 0
local leader, me, lease_ms = KEYS[1], ARGV[1], ARGV[2]
local leads = redis.pcall('GET', leader)
if type(leads) == 'table' then
  if not leads.err:find('WRONGTYPE', 1, true) then return leads end
  redis.call('DEL', leader)
  leads = false
end
-- A lead always ends by itself: something without expiry is no node's.
if leads and leads ~= me and redis.call('PTTL', leader) == -1 then leads = false end
if leads and leads ~= me then return 0 end
if lease_ms == '0' then
  if leads then redis.call('DEL', leader) end
  return 0
end
local written = redis.pcall('SET', leader, me, 'PX', lease_ms)
if written.err then return written end
return 1
