-- What has to be done as time goes by; every worker does it once a second, and once is enough.
-- worker, what it says of itself as JSON, how many ends it can tell now, for how long it has them
-- Returns the jobs whose workers are silent, whom to tell of which end, and how many messages lie in
-- the lists that this worker reads.

local STALE = 3000
redis.call('HSET', P .. 'workers', ARGV[2], ARGV[3])
local lying_here = 0
for _, queue in ipairs(cjson.decode(ARGV[3]).queues) do
  lying_here = lying_here + length('LLEN', queue)
end
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

-- The list of all jobs loses those that are forgotten, some at a time; it is in the order of their
-- coming, so where we are in it is kept beside.
local hour, SOME = 3600000, 500
local from = tonumber(redis.call('GET', P .. 'jobs_seen')) or 0
local old = redis.call('ZRANGEBYSCORE', P .. 'jobs', '-inf', now - hour, 'LIMIT', from, SOME)
for _, id in ipairs(old) do
  if redis.call('EXISTS', record(id)) == 1 then
    from = from + 1
  else
    redis.call('ZREM', P .. 'jobs', id)
  end
end
redis.call('SET', P .. 'jobs_seen', #old < SOME and 0 or from)

-- Names of queues in which nothing is.
for _, queue in ipairs(redis.call('SRANDMEMBER', P .. 'queues', 20)) do
  if redis.call('ZCARD', P .. 'queued:' .. queue) == 0 and length('LLEN', queue) == 0 then
    redis.call('SREM', P .. 'queues', queue)
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

-- Whoever is handed one has it for a while. If it fails he says when it is due again; if he dies
-- it comes again by itself. Nobody is handed one a fifth time.
local hooks = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'webhooks', '-inf', now, 'LIMIT', 0, ARGV[4])) do
  local id, url = string.match(member, '^(%S+) (%S+)$')
  local tries = redis.call('HINCRBY', P .. 'webhook_tries', member, 1)
  if not id or tries > 4 then
    tell_not(member)
    count('webhooks_lost')
  else
    redis.call('ZADD', P .. 'webhooks', now + tonumber(ARGV[5]), member)
    hooks[#hooks + 1] = {id, url, tries}
  end
end
return {silent, hooks, lying_here}
