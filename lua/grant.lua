-- Included where a script may grant. A waiter or asker takes three arguments in a row: owner, lease in ms, and what follows the
-- fence in the value: 0x1F level 0x1F acquired at (Unix ms) 0x1F node:call 0x1F meta.

-- The next fence: the counter's next number, or, where the counter is missing, flushed or stale, one above everything that
-- was given out before. %.0f, because `..` and tostring would round 16 digits.
local function next_fence(counter, floor)
  local fence = redis.pcall('INCR', counter)
  if type(fence) == 'table' then return fence end
  if fence < floor then
    local time = redis.call('TIME')
    fence = math.max(time[1] * 1000000 + time[2], floor)
    redis.call('SET', counter, string.format('%.0f', fence))
  end
  return fence
end

-- Writes `lock` for the one whose arguments begin at `first`. Returns the fence, or the upstream's error as a table.
local function grant(lock, counter, floor, first)
  local fence = next_fence(counter, floor)
  if type(fence) == 'table' then return fence end
  local value = ARGV[first] .. '\31' .. string.format('%.0f', fence) .. ARGV[first + 2]
  local written = redis.pcall('SET', lock, value, 'PX', ARGV[first + 1])
  if written.err then return written end
  return fence
end
