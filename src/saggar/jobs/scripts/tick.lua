-- What has to be done as time goes by; every worker does it once a second, and once is enough.
-- worker, what it says of itself as JSON, its patience in milliseconds, then its queues
-- Returns the jobs whose workers are silent, and whom to tell of which end.

local STALE = 3000
redis.call('HSET', P .. 'workers', ARGV[2], ARGV[3])
local slots = {}
local all = redis.call('HGETALL', P .. 'workers')
for at = 1, #all, 2 do
  local worker = cjson.decode(all[at + 1])
  if worker.until_ms < now - DAY then
    redis.call('HDEL', P .. 'workers', all[at])
  elseif worker.until_ms >= now then
    for _, queue in ipairs(worker.queues) do
      slots[queue] = (slots[queue] or 0) + worker.slots
    end
  end
end

local due = redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', now, 'LIMIT', 0, 200)
for _, id in ipairs(due) do
  redis.call('ZREM', P .. 'delayed', id)
  local found = redis.call('HMGET', record(id), 'queue', 'tenant', 'priority')
  if found[1] then
    enqueue(id, found[1], found[2], found[3])
    if not slots[found[1]] then slots[found[1]] = 0 end
  end
end

for queue, number in pairs(slots) do
  if number > 0 then
    redis.call('SET', P .. 'window:' .. queue, math.max(2, number * 2), 'PX', 30000)
  end
  -- A message that is out but not in the list was with a worker that died, or waits in one that
  -- is busy: it is sent again, and whoever comes second gets nothing.
  local stale = redis.call('ZRANGEBYSCORE', P .. 'sent:' .. queue, '-inf', now - STALE, 'LIMIT', 0, 50)
  local lying = #stale > 0 and table.concat(redis.call('LRANGE', queue, 0, -1)) or ''
  for _, id in ipairs(stale) do
    if not string.find(lying, id, 1, true) then
      local message = redis.call('HGET', record(id), 'message')
      if message then
        redis.call('RPUSH', queue, message)
        redis.call('ZADD', P .. 'sent:' .. queue, now, id)
      else
        redis.call('ZREM', P .. 'sent:' .. queue, id)
      end
    end
  end
  dispatch(queue)
end

-- The list of all jobs loses those that are forgotten; who is still there is looked at later.
local hour = 3600000
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'jobs', '-inf', now - hour, 'LIMIT', 0, 1000)) do
  if redis.call('EXISTS', record(id)) == 1 then
    redis.call('ZADD', P .. 'jobs', now, id)
  else
    redis.call('ZREM', P .. 'jobs', id)
  end
end
local silent = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'running', '-inf', now, 'LIMIT', 0, 100)) do
  local found = redis.call('HMGET', record(id), 'token', 'attempt', 'worker', 'tenant', 'queue',
    'code_hash', 'created')
  if found[1] then
    silent[#silent + 1] = {id, unpack(found)}
  else
    redis.call('ZREM', P .. 'running', id)
  end
end

-- A message that is not delivered is tried again after 5, 25, 125 seconds.
local hooks = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'webhooks', '-inf', now, 'LIMIT', 0, 20)) do
  local url = redis.call('HGET', record(id), 'webhook')
  local tries = url and redis.call('HINCRBY', record(id), 'webhook_tries', 1)
  if not url or tries > 4 then
    redis.call('ZREM', P .. 'webhooks', id)
    if url then count('webhooks_lost') end
  else
    redis.call('ZADD', P .. 'webhooks', now + 1000 * 5 ^ tries, id)
    hooks[#hooks + 1] = {id, url}
  end
end
return {silent, hooks}
