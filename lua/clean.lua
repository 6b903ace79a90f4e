-- Removes registrations that nobody is behind any more, each only as it was read: what was registered anew stays.
-- KEYS: queue   ARGV: node, registration, node, registration …   Returns: how many were removed
local queue = KEYS[1]
local removed = 0
for i = 1, #ARGV, 2 do
  local node, read = ARGV[i], ARGV[i + 1]
  local registered = redis.pcall('HGET', queue, node)
  if type(registered) == 'table' then return registered end
  if registered == read then
    removed = removed + redis.call('HDEL', queue, node)
  end
end
return removed
