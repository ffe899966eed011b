-- The result of a job is gone: the same work is run anew.
-- tenant, key, id

local slot = P .. 'once:' .. ARGV[2] .. ':' .. ARGV[3]
if redis.call('GET', slot) == ARGV[4] then redis.call('DEL', slot) end
return 1
