-- Included where a script gives out fences.

-- The next fence: the counter's next number, or, where the counter is missing, flushed or stale, one above everything that
-- was given out before. %.0f, because `..` and tostring would round 16 digits. Returns it, or the upstream's error as a table.
local function fence_after(counter, floor)
  local fence = redis.pcall('INCR', counter)
  if type(fence) == 'table' then return fence end
  if fence < floor then
    local time = redis.call('TIME')
    fence = math.max(time[1] * 1000000 + time[2], floor)
    redis.call('SET', counter, string.format('%.0f', fence))
  end
  return fence
end
