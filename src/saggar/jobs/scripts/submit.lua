-- Take a job in, unless the same is there already or its tenant has enough.
-- id, body, message, tenant, queue, priority, delay, key, running, waiting, rate, burst, code hash, webhook
-- A delay below zero: whoever submits it runs it himself, and it is sent only if he does not.

local id, body, message, tenant, queue = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local priority, delay, key = ARGV[7], tonumber(ARGV[8]), ARGV[9]
local running, waiting, rate, burst = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])

-- Sent twice, as its sender lost the connection before he was answered.
if redis.call('EXISTS', record(id)) == 1 then return {'new', id} end

local slot = ''
if key ~= '' then
  slot = P .. 'once:' .. tenant .. ':' .. key
  local other = redis.call('GET', slot)
  local state = other and redis.call('HGET', record(other), 'state')
  if state == 'done' then
    count('cached')
    return {'cached', other}
  elseif state == 'queued' or state == 'running' or state == 'delayed' then
    count('joined')
    return {'joined', other}
  end
end

if redis.call('ZCARD', line(queue, tenant)) >= waiting then
  return {'waiting', 1000}
end
if rate > 0 then
  local bucket = P .. 'bucket:' .. tenant
  local kept = redis.call('HMGET', bucket, 'tokens', 'at')
  local tokens = math.min(burst, (tonumber(kept[1]) or burst)
    + (now - (tonumber(kept[2]) or now)) * rate / 1000)
  if tokens < 1 then
    return {'rate', math.ceil((1 - tokens) * 1000 / rate)}
  end
  redis.call('HSET', bucket, 'tokens', tostring(tokens - 1), 'at', now)
  redis.call('PEXPIRE', bucket, math.ceil(burst * 1000 / rate) + 1000)
end

if running ~= '' then
  redis.call('HSET', P .. 'running_most', tenant, running)
else
  redis.call('HDEL', P .. 'running_most', tenant)
end
redis.call('HSET', record(id), 'body', body, 'message', message, 'tenant', tenant, 'queue', queue,
  'priority', priority, 'attempt', 0, 'created', now, 'slot', slot, 'code_hash', ARGV[14])
if ARGV[15] ~= '' then redis.call('HSET', record(id), 'webhook', ARGV[15]) end
if slot ~= '' then redis.call('SET', slot, id) end
redis.call('ZADD', P .. 'jobs', now, id)
redis.call('SADD', P .. 'queues', queue)
count('submitted')
if delay > 0 then
  redis.call('HSET', record(id), 'state', 'delayed')
  redis.call('ZADD', P .. 'delayed', now + delay, id)
elseif delay < 0 then
  redis.call('HSET', record(id), 'state', 'queued')
  redis.call('ZADD', P .. 'queued:' .. queue, now, id)
  redis.call('ZADD', P .. 'sent:' .. queue, now, id)
  redis.call('SADD', P .. 'out:' .. tenant, id)
else
  enqueue(id, queue, tenant, priority)
  dispatch(queue)
end
return {'new', id}
