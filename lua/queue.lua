-- Included where a script reads the queue before a lock.

-- The queue is a hash with one field a node: that node's best waiter. A waiter is one string of fields with 0x1F between them:
--   rank (42 digits that sort as the rank does), when the try was sent that wrote it (0 if its node did), ms of a claim's lease,
--   lease, level, call, length of the owner, owner and meta
-- Its lease begins with L for LOCK.* (ms), and for SET NX with P (ms), A (until, Unix ms) or N (none).
local RANK = 42

local function is_waiter(node, text)
  if node:find('\31', 1, true) then return false end
  local rank, claim_ms = text:match('^(%d+)\31%d+\31([1-9]%d*)\31[LPAN]%d*\31[0-3]\31[^\31]*\31%d+\31')
  return rank ~= nil and #rank == RANK and #claim_ms <= 13
end

-- The nodes and their waiters, one after the other. Whatever else somebody has put there is removed: the key is Lockgate's own.
local function waiters_in(queue)
  local read = redis.pcall('HGETALL', queue)
  if read.err then
    -- Any other error is the script's.
    if not read.err:find('WRONGTYPE', 1, true) then redis.call('HGETALL', queue) end
    redis.call('DEL', queue)
    return {}
  end
  local waiters = {}
  for i = 1, #read, 2 do
    if is_waiter(read[i], read[i + 1]) then
      waiters[#waiters + 1], waiters[#waiters + 2] = read[i], read[i + 1]
    else
      redis.call('HDEL', queue, read[i])
    end
  end
  return waiters
end
