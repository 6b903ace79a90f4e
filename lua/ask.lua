-- Included, behind turn.lua, by the scripts that ask for a lock. ARGV 6 tells the asker as a waiter: arrival in µs ('' for now), '1'
-- where a rule takes the key for a lock, his rank's tier, the µs that he is ahead, the rest of his rank, and if he waits, what follows
-- in a waiter behind its second field.
local arrived, is_rule_key, tier, ahead, rest, waiting = ARGV[6]:match('^(%d*)\31([01])\31(%d)\31(%d+)\31(%d+)(.*)$')
local is_waiting = waiting ~= ''
local time = redis.call('TIME')
local arrival = arrived == '' and time[1] * 1000000 + time[2] or tonumber(arrived)
local rank = tier .. string.format('%020.0f', math.max(arrival - tonumber(ahead), 0)) .. rest
local asker = rank .. '\31' .. sent_us .. waiting

-- The lock is free, and somebody waits: `take` gives it to the asker if nobody ranks before him.
local function ask_free(take, first, second)
  local other, other_node, mine = registered()
  first, second = with_newcomer(first, second, mine)
  local other_rank = other and other:sub(1, RANK)
  local is_first = not goes_before(first, asker)
    and not (other and (other_rank < rank or (other_rank == rank and other_node < me)))
  if is_first then
    local fence = take()
    if type(fence) == 'table' then return fence end
    register(first, mine)
    return {'granted', fence, call_of(first)}
  end
  if is_waiting then
    -- The asker takes his place among his node's.
    if goes_before(asker, first) then
      first, second = asker, first
    elseif goes_before(asker, second) then
      second = asker
    end
  end
  local given = take_turns(first, second)
  if given.err then return given end
  given[5], given[6] = time[1], time[2]
  return given
end

-- Another holds the lock.
local function ask_held(value)
  local mine
  local left = redis.call('PTTL', KEYS[1])
  local is_data = left == -1 and is_rule_key == '0' and not value:find('^[^\31]*\31%d+\31[0-3]\31%d+\31[^\31]*\31')
  -- Nobody waits for data.
  if is_waiting and not is_data then
    mine = own_registration()
    if goes_before(asker, mine) then
      register(asker, mine)
      mine = asker
    end
  end
  return {'held', value, left, call_of(mine), time[1], time[2]}
end
