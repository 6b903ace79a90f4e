-- Included where a script gives out fences.

-- The next fence: the counter's next number, or, where the counter is missing, flushed or stale, one above everything that
-- was given out before. %.0f, because `..` and tostring would round 16 digits. Returns it, or the upstream's error as a table.
local function fence_after(counter, floor, ahead_us)
  local fence = redis.pcall('INCR', counter)
  if type(fence) == 'table' then return fence end
  if fence < floor then
    local time = redis.call('TIME')
    -- After a failover fences run ahead of the clock, and what was given meanwhile may have been flushed with the counter.
    fence = math.max(time[1] * 1000000 + time[2] + ahead_us, floor)
    redis.call('SET', counter, string.format('%.0f', fence))
  end
  return fence
end
