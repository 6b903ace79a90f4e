-- Included, behind turn.lua, by the scripts that ask for a lock. ARGV 10 to 14 tell the asker as a waiter, see acquire.lua.
local is_waiting = ARGV[10] ~= ''
local time = redis.call('TIME')
local arrival = ARGV[11] == '' and time[1] * 1000000 + time[2] or tonumber(ARGV[11])
local rank = ARGV[12] .. string.format('%020.0f', math.max(arrival - tonumber(ARGV[13]), 0)) .. ARGV[14]
local asker = rank .. '\31' .. ARGV[3] .. ARGV[10]

-- The lock is free, and somebody waits: `take` gives it to the asker if nobody ranks before him.
local function ask_free(take, first, second)
  local other, other_node, mine = registered()
  first, second = with_newcomer(first, second, mine)
  local other_rank = other and other:sub(1, RANK)
  local is_first = not goes_before(first, asker)
    and not (other and (other_rank < rank or (other_rank == rank and other_node < ARGV[2])))
  if is_first then
    local fence = take()
    if type(fence) == 'table' then return fence end
    register(first, mine)
    return {'granted', fence, call_of(first)}
  end
  if is_waiting then
    -- The asker takes his place among his node's.
    if goes_before(asker, first) or not first then
      first, second = asker, first
    elseif goes_before(asker, second) or not second then
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
  if is_waiting then
    mine = redis.call('HGET', KEYS[3], ARGV[2]) or nil
    if goes_before(asker, mine) then
      register(asker, mine)
      mine = asker
    end
  end
  return {'held', value, redis.call('PTTL', KEYS[1]), call_of(mine), time[1], time[2]}
end
