-- Included, behind fence.lua and queue.lua, where a script decides whose turn it is. Expects KEYS: lock, fence counter, queue; ARGV:
-- fence floor, context, …
-- The context is, with 0x1F between them: µs by which fences run ahead of the upstream's clock, node, when the script was sent (Unix µs
-- of its node), ms to keep a queue, until when the node knew its own tries (like the time it was sent), and a call that was registered
-- under the node's name and is none of this process's ('' for none): an earlier life of the node has left it.
local ahead_us, me, sent_us, kept_ms, knows_until, left_over =
  ARGV[2]:match('^(%d+)\31([^\31]*)\31(%d+)\31(%d+)\31(%d+)\31([^\31]*)$')

-- `held` is the fence of the hold that ends, if there is one.
local function next_fence(held) return fence_after(KEYS[2], tonumber(ARGV[1]), tonumber(ahead_us), held) end

-- Whether other nodes had waiters when the queue was read last.
local others_wait = false

-- The best waiter of the other nodes and its node, and what this node has registered; nil where there is none.
local function registered()
  local waiters = waiters_in(KEYS[3])
  local best, best_node, mine
  for i = 1, #waiters, 2 do
    local node, waiter = waiters[i], waiters[i + 1]
    if node == me then
      mine = waiter
    else
      local rank, best_rank = waiter:sub(1, RANK), best and best:sub(1, RANK)
      if not best or rank < best_rank or (rank == best_rank and node < best_node) then best, best_node = waiter, node end
    end
  end
  others_wait = best ~= nil
  return best, best_node, mine
end

-- What this node has registered; nil for nothing.
local function own_registration()
  local mine = redis.pcall('HGET', KEYS[3], me)
  if type(mine) == 'string' and is_waiter(me, mine) then return mine end
  -- Something else is removed as it is where the whole queue is read.
  if mine then mine = select(3, registered()) end
  return mine or nil
end

local function goes_before(waiter, other)
  return waiter and (not other or waiter:sub(1, RANK) < other:sub(1, RANK))
end

local function call_of(waiter)
  return waiter and waiter:match('^%d+\31%d+\31%d+\31%w+\31%d\31([^\31]*)\31') or ''
end

-- This node's best waiter is `waiter` from here on (nil for nobody), where `mine` was. A queue outlives its nodes by its expiry
-- only. An upstream out of memory must not keep a holder from releasing, hence no error.
local function register(waiter, mine)
  if waiter == mine then return end
  if not waiter then
    redis.pcall('HDEL', KEYS[3], me)
    return
  end
  redis.pcall('HSET', KEYS[3], me, waiter)
  local left = redis.pcall('PTTL', KEYS[3])
  if type(left) == 'number' and left < tonumber(kept_ms) then redis.pcall('PEXPIRE', KEYS[3], kept_ms) end
end

-- Writes the lock for a waiter of `node`. One of this node has it at once; another node's, one whom the script did not bring (a
-- newcomer), and a SET NX, whose value could not be told from others', gets a claim (`?`) with a short lease, to be confirmed before
-- anybody is told.
-- Returns {'handed', fence, call} or {'claimed', value, call, or '' for another node's}, or the upstream's error.
local function give(waiter, node, is_newcomer, held)
  local claim_ms, lease, level, call, length, rest =
    waiter:match('^%d+\31%d+\31(%d+)\31(%w+)\31(%d)\31([^\31]*)\31(%d+)\31(.*)$')
  local owner, meta = rest:sub(1, tonumber(length)), rest:sub(tonumber(length) + 1)
  local is_own, is_plain = node == me, lease:sub(1, 1) ~= 'L'
  local fence = 0
  if is_plain then
    owner = ''
  else
    fence = next_fence(held)
    if type(fence) == 'table' then return fence end
  end
  local is_claim = is_plain or not is_own or is_newcomer
  local value = table.concat({
    owner, string.format('%.0f', fence), level, string.format('%.0f', math.floor(sent_us / 1000)), node .. ':' .. call .. (is_claim and '?' or ''), meta
  }, '\31')
  local written = redis.pcall('SET', KEYS[1], value, 'PX', is_claim and claim_ms or lease:sub(2))
  if written.err then return written end
  if not is_claim then
    -- The waiter's registration goes with it in the caller's next step.
    return {'handed', fence, call}
  end
  if not is_own then redis.pcall('HDEL', KEYS[3], node) end
  return {'claimed', value, is_own and call or ''}
end

-- This node's two best waiters, as the script brought them, and the one who was registered by a try whose reply was still on its way
-- when the script was sent: its node did not know of him yet.
local function with_newcomer(first, second, mine)
  local sent = mine and tonumber(mine:match('^%d+\31(%d+)'))
  if not sent or sent <= tonumber(knows_until) then return first, second end
  local call = call_of(mine)
  if call == left_over or call == call_of(first) or call == call_of(second) then return first, second end
  if goes_before(mine, first) then return mine, first end
  if goes_before(mine, second) then return first, mine end
  return first, second
end

-- Gives the free lock to the best of this node's waiters (`first`, then `second`) and the other nodes', and registers who is
-- this node's best afterwards. `held` is the fence of the hold that ends, if there is one. Returns what `give` returns, with the call
-- that is registered now behind it; nil for nobody.
local function take_turns(first, second, held)
  local other, other_node, mine = registered()
  first, second = with_newcomer(first, second, mine)
  if not first and not other then
    register(nil, mine)
    return nil
  end
  local is_own = first and not (goes_before(other, first) or (other and other:sub(1, RANK) == first:sub(1, RANK) and other_node < me))
  local given
  if is_own then
    given = give(first, me, first:match('^%d+\31(%d+)') ~= '0', held)
  else
    given = give(other, other_node, false, held)
  end
  if given.err then return given end
  local best = first
  if is_own then best = second end
  register(best, mine)
  given[4] = call_of(best)
  return given
end
