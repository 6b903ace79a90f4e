-- Included where a script gives out fences.

-- A counter that is further ahead of the clock has never been given out (2^52 µs: more than a million failovers). What is left above
-- it up to 2^53 is never used up.
local FENCE_AHEAD_MAX = 4503599627370496

-- The next fence: above the counter, above `floor` (what this node has seen) and `held` (the fence of the hold that ends, if there is
-- one), and never below the upstream's clock, ahead of which fences run since failovers. So fences grow also where the counter was
-- deleted, flushed, overwritten, or came from another database. %.0f, because `..` and tostring would round 16 digits. Returns it, or
-- the upstream's error as a table.
local function fence_after(counter, floor, ahead_us, held)
  local time = redis.call('TIME')
  local now_us = time[1] * 1000000 + time[2]
  local fence = math.max(now_us + ahead_us, floor)
  if held and held < now_us + FENCE_AHEAD_MAX then fence = math.max(fence, held + 1) end
  local last = redis.pcall('SET', counter, string.format('%.0f', fence), 'GET')
  local is_written = true
  if type(last) == 'table' then
    -- Something else stands there: it is written over.
    if not last.err:find('WRONGTYPE', 1, true) then return last end
    is_written = false
  elseif last and #last <= 16 and last:find('^%d+$') then
    -- The counter is ahead where the clock was set back, or two fences are given in one microsecond.
    last = tonumber(last)
    if last >= fence and last < now_us + FENCE_AHEAD_MAX then
      fence, is_written = last + 1, false
    end
  end
  if not is_written then
    local written = redis.pcall('SET', counter, string.format('%.0f', fence))
    if written.err then return written end
  end
  return fence
end
