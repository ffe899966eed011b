-- A dead letter that nobody will look at again.
-- id, keep

local id = ARGV[2]
local found = redis.call('HMGET', record(id), 'letter', 'tenant')
if not found[1] then return 0 end
take_letter(id, found[2])
forget(id, tonumber(ARGV[3]))
return 1
