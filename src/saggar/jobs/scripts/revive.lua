-- A job that was given up or cancelled starts from the beginning, if its code is still known.
-- id, message

local id = ARGV[2]
local found = redis.call('HMGET', record(id), 'state', 'queue', 'tenant', 'priority', 'webhook', 'body')
local state = found[1]
if not state then return redis.call('EXISTS', P .. 'past:' .. id) == 1 and 'past' or 'gone' end
if state ~= 'dead' and state ~= 'cancelled' or not found[6] then return state end
take_letter(id, found[3])
-- What was not told yet is not so any more, and its next end is told as often as the first.
for url in string.gmatch(found[5] or '', '%S+') do tell_not(hook(id, url)) end
tell_not(hook(id, 'alert:'))
redis.call('HDEL', record(id), 'failure', 'finished', 'status', 'settled', 'worker', 'started')
redis.call('HSET', record(id), 'attempt', 0, 'message', ARGV[3])
redis.call('PERSIST', record(id))
redis.call('DEL', P .. 'done:' .. id, P .. 'events:' .. id, P .. 'past:' .. id)
enqueue(id, found[2], found[3], found[4])
dispatch(found[2])
return 'revived'
