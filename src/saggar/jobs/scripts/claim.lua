-- The right to run a job, to the first who comes with its message; what is no longer due gets none.
-- id, worker, token, lease

local id, worker, token, lease = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local found = redis.call('HMGET', record(id), 'state', 'queue', 'tenant', 'body', 'created', 'token',
  'attempt')
local state, queue, tenant = found[1], found[2], found[3]
if not state then return {'gone'} end
if state == 'running' and found[6] == token then
  -- Asked twice, as the connection broke before the answer.
  return {'yours', tonumber(found[7]), found[4], found[5], now}
end
local sent = redis.call('ZREM', P .. 'sent:' .. queue, id)
if sent == 0 or state ~= 'queued' then
  dispatch(queue)
  return {state}
end
local waited = now - (tonumber(redis.call('ZSCORE', P .. 'queued:' .. queue, id)) or now)
redis.call('ZREM', P .. 'queued:' .. queue, id)
redis.call('SREM', unstarted(tenant), id)
redis.call('ZADD', P .. 'running', now + lease, id)
redis.call('HSET', record(id), 'state', 'running', 'worker', worker, 'token', token, 'started', now)
local attempt = redis.call('HINCRBY', record(id), 'attempt', 1)
for _, most in ipairs({10, 50, 100, 500, 1000, 5000, 10000, 30000, 60000, 300000, 1e15}) do
  if waited <= most then
    count('wait:' .. queue .. ':' .. (most == 1e15 and '+Inf' or tostring(most / 1000)))
    break
  end
end
count('waited_ms:' .. queue, math.max(0, math.floor(waited)))
dispatch(queue)
return {'yours', attempt, found[4], found[5], now}
