-- Nobody wants this job any more. One that runs is told to its worker, at once and by its next beat.
-- id, keep

local id, keep = ARGV[2], tonumber(ARGV[3])
local found = redis.call('HMGET', record(id), 'state', 'queue', 'tenant')
local state = found[1]
if not state then return redis.call('EXISTS', P .. 'past:' .. id) == 1 and 'past' or 'gone' end
if state == 'running' then
  redis.call('HSET', record(id), 'cancel', now)
  redis.call('PUBLISH', P .. 'cancel', id)
elseif state == 'queued' or state == 'delayed' then
  withdraw(id, found[2], found[3])
  finish(id, 'cancelled', keep)
  close_slot(id, false, keep)
  forget(id, keep)
  count('done:cancelled')
  dispatch(found[2])
end
return state
