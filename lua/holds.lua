-- Included where a script asks whether an owner holds the lock.

-- 1 where `owner` holds the lock, under `fence` if one is named; 0 where another does; 'no lock' where the string is data:
-- without expiry, of another form than LOCK.* writes, and no rule takes the key for a lock.
local function holds(lock, value, owner, fence, is_rule_key)
  if value:sub(1, #owner) == owner then
    local held_under = value:match('^\31(%d+)\31[0-3]\31%d+\31[^\31]*\31', #owner + 1)
    if held_under then return (fence == '' or fence == held_under) and 1 or 0 end
  end
  local is_long = value:find('^[^\31]*\31%d+\31[0-3]\31%d+\31[^\31]*\31')
  if not is_long and is_rule_key ~= '1' and redis.call('PTTL', lock) == -1 then return 'no lock' end
  return (value == owner and fence == '') and 1 or 0
end
