-- A dead letter that nobody will look at again.
-- id, keep

local id = ARGV[2]
local letter = redis.call('HGET', record(id), 'letter')
if not letter then return 0 end
redis.call('LREM', 'dead_letter', 1, letter)
redis.call('HDEL', record(id), 'letter')
forget(id, tonumber(ARGV[3]))
return 1
