-- Who holds a lock, for somebody who is about to change who waits for it. Writes nothing: the field that is removed stands for no node.
-- KEYS: lock, queue   Returns: what look.lua does, or the refusal where the caller may not write to the queue
local judged = redis.pcall('HDEL', KEYS[2], '\31')
if type(judged) == 'table' and not judged.err:find('WRONGTYPE', 1, true) then return judged end
-- include look.lua
