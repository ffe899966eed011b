-- Nobody wants this job any more. One that runs is told to its worker, at once and by its next beat.
-- id, keep, Celery's channel for its workers, what is said there of a task, what stands for its id,
-- the id of the task that was revoked there, if that is why

local id, keep = ARGV[2], tonumber(ARGV[3])
local found = redis.call('HMGET', record(id), 'state', 'queue', 'tenant', 'message')
local state = found[1]
if not state then return redis.call('EXISTS', P .. 'past:' .. id) == 1 and 'past' or 'gone' end
local task = found[4] and cjson.decode(found[4]).headers.id
if ARGV[7] ~= '' and ARGV[7] ~= task then return state end -- the job was started anew since
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
if (state == 'running' or state == 'queued' or state == 'delayed') and task then
  -- For the eyes of Flower and of `inspect revoked`; nothing of ours hangs on it.
  redis.call('PUBLISH', ARGV[4], (string.gsub(ARGV[5], ARGV[6], task, 1)))
end
return state
