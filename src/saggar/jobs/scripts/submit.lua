-- Take a job in, unless the same is there already or its tenant has enough.
-- id, body, message, tenant, queue, priority, delay, key, running, waiting, rate, burst, code hash,
-- webhook, and where results are on this server: database of jobs, of results
-- A delay below zero: whoever submits it runs it himself, and it is sent only if he does not.

local id, body, message, tenant, queue = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local priority, delay, key = ARGV[7], tonumber(ARGV[8]), ARGV[9]
local running, waiting, rate, burst = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])

-- Sent twice, as its sender lost the connection before he was answered.
if redis.call('EXISTS', record(id)) == 1 then return {'new', id} end

-- Whether a living worker takes what is in this queue.
local function is_read(name)
  for _, said in ipairs(redis.call('HVALS', P .. 'workers')) do
    local worker = cjson.decode(said)
    for _, one in ipairs(worker.until_ms >= now and worker.queues or {}) do
      if one == name then return true end
    end
  end
  return false
end

local slot = ''
if key ~= '' then
  slot = P .. 'once:' .. tenant .. ':' .. key
  local other = redis.call('GET', slot)
  local found = other and redis.call('HMGET', record(other), 'state', 'queue', 'attempt', 'priority',
    'settled') or {}
  local state, theirs = found[1], found[2]
  if state == 'done' and found[5] and ARGV[16] ~= '' then
    redis.call('SELECT', ARGV[17])
    if redis.call('EXISTS', P .. 'result:' .. other .. ':' .. found[5]) == 0 then state = 'lost' end
    redis.call('SELECT', ARGV[16])
  end
  if (state == 'queued' or state == 'delayed') and theirs ~= queue and not is_read(theirs) then
    state = 'unread' -- it would wait there for ever, and this one with it
  end
  if state == 'done' or state == 'queued' or state == 'running' or state == 'delayed' then
    if ARGV[15] ~= '' and not also_tell(other, ARGV[15]) then return {'hooks', 60000} end
  end
  if state == 'done' then
    count('cached')
    if ARGV[15] ~= '' then tell_now(hook(other, ARGV[15])) end
    return {'cached', other, found[5] or ''}
  elseif state == 'queued' or state == 'running' or state == 'delayed' then
    count('joined')
    -- One that never ran starts as early as any of its submissions wants. What failed is tried
    -- again in its own time.
    if state == 'delayed' and found[3] == '0' then
      local due = now + math.max(0, delay)
      if due <= now then
        redis.call('ZREM', P .. 'delayed', other)
        enqueue(other, theirs, tenant, found[4])
        dispatch(theirs)
      elseif due < tonumber(redis.call('ZSCORE', P .. 'delayed', other) or '0') then
        redis.call('ZADD', P .. 'delayed', due, other)
      end
    end
    return {'joined', other}
  end
end

if redis.call('SCARD', unstarted(tenant)) >= waiting then
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

-- First, as a server that is full refuses the first thing that is written, and nothing after it.
redis.call('HSET', record(id), 'body', body, 'message', message, 'tenant', tenant, 'queue', queue,
  'priority', priority, 'attempt', 0, 'created', now, 'slot', slot, 'code_hash', ARGV[14])
if running ~= '' then
  redis.call('HSET', P .. 'running_most', tenant, running)
else
  redis.call('HDEL', P .. 'running_most', tenant)
end
if ARGV[15] ~= '' then redis.call('HSET', record(id), 'webhook', ARGV[15]) end
if slot ~= '' then redis.call('SET', slot, id) end
redis.call('ZADD', P .. 'jobs', now, id)
count('submitted')
if delay > 0 then
  postpone(id, tenant, now + delay)
elseif delay < 0 then
  redis.call('HSET', record(id), 'state', 'queued')
  redis.call('ZADD', P .. 'queued:' .. queue, now, id)
  redis.call('ZADD', P .. 'sent:' .. queue, now, id)
  redis.call('SADD', P .. 'out:' .. tenant, id)
  redis.call('SADD', P .. 'queues', queue)
  redis.call('SADD', unstarted(tenant), id)
else
  enqueue(id, queue, tenant, priority)
  dispatch(queue)
end
return {'new', id}
