-- The opening of every script that reads a lock's value (Lockgate puts it in front of their text).

-- The fields of a value of the long form: owner, fence, level, acquired at, node:call. Nothing for any other value.
local function fields(value)
  return value:match('^([^\31]*)\31(%d+)\31([0-3])\31(%d+)\31([^\31]*)\31')
end

-- 1 where `owner` holds the lock, under `fence` if one is named; 0 where another does; 'no lock' where the string is data:
-- without expiry, of another form, and no rule takes the key for a lock.
local function holds(lock, value, owner, fence, is_rule_key)
  local holder, holder_fence = fields(value)
  if holder then
    if holder == owner and (fence == '' or fence == holder_fence) then return 1 end
    return 0
  end
  if is_rule_key ~= '1' and redis.call('PTTL', lock) == -1 then return 'no lock' end
  if value == owner and fence == '' then return 1 end
  return 0
end

