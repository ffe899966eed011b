-- Record how an attempt ended, if it still is the current one.
-- id, token, outcome, keep, failure, delay, status, serve, letter, handler, milliseconds it ran
-- then, where results are on this server: database of jobs, of results, the result

local id, token, outcome, keep = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local failure, delay, status, serve = ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9] == '1'
local found = redis.call('HMGET', record(id), 'state', 'token', 'queue', 'tenant', 'priority',
  'cancel')
local queue, tenant = found[3], found[4]
if found[1] ~= 'running' or found[2] ~= token then return 0 end
withdraw(id, queue, tenant)
redis.call('HSET', record(id), 'settled', token)
if ARGV[15] ~= '' then
  redis.call('SELECT', ARGV[14])
  redis.call('SET', P .. 'result:' .. id .. ':' .. token, ARGV[15], 'PX', keep)
  redis.call('SELECT', ARGV[13])
end
if failure ~= '' then redis.call('HSET', record(id), 'failure', failure) end
count('ran_ms:' .. (status == '' and outcome or status), tonumber(ARGV[12]))
count('ran:' .. (status == '' and outcome or status))

if found[6] and outcome ~= 'done' then
  outcome = 'cancelled' -- whatever went wrong with what nobody wants any more
end
if outcome == 'again' then
  count('retries')
  redis.call('HDEL', record(id), 'token')
  if delay > 0 then
    postpone(id, tenant, now + delay)
  else
    enqueue(id, queue, tenant, found[5])
  end
elseif outcome == 'bury' then
  count('dead')
  finish(id, 'dead', keep)
  redis.call('HSET', record(id), 'status', status)
  close_slot(id, false, keep)
  put_letter(id, tenant, ARGV[10], keep)
  tell_now(hook(id, 'alert:'))
  redis.call('LPUSH', queue, ARGV[11])
else
  local state = (outcome == 'cancelled' or status == 'cancelled') and 'cancelled' or 'done'
  count('done:' .. (status == '' and state or status))
  finish(id, state, keep)
  redis.call('HSET', record(id), 'status', status)
  if status == 'ok' then redis.call('HDEL', record(id), 'body') end
  close_slot(id, serve and state == 'done', keep)
  forget(id, keep)
end
dispatch(queue)
return 1
