-- How it stands, for those who watch.
-- queues; * stands for all others that jobs were submitted to

-- What waits in Celery's lists and is no job: tasks that somebody sent himself, of any priority,
-- and our own that tell of something.
local function others(queue)
  local found = math.max(0, length('LLEN', queue) - redis.call('ZCARD', P .. 'sent:' .. queue))
  for _, priority in ipairs({'3', '6', '9'}) do
    found = found + length('LLEN', queue .. '\6\22' .. priority)
  end
  return found
end

-- Jobs whose messages are with a worker that has not begun: they are in no list of Celery's.
local function handed(queue)
  return math.max(0, redis.call('ZCARD', P .. 'sent:' .. queue) - length('LLEN', queue))
end

local names, known = {}, {}
local function name(queue)
  if not known[queue] then names[#names + 1] = queue end
  known[queue] = true
end
for at = 2, #ARGV do
  if ARGV[at] == '*' then
    for _, queue in ipairs(redis.call('SMEMBERS', P .. 'queues')) do name(queue) end
  else
    name(ARGV[at])
  end
end

local queues, held = {}, length('HLEN', 'unacked') + redis.call('ZCARD', P .. 'running')
for _, queue in ipairs(names) do
  local oldest = redis.call('ZRANGE', P .. 'queued:' .. queue, 0, 0, 'WITHSCORES')
  held = held + handed(queue)
  queues[#queues + 1] = {
    queue,
    redis.call('ZCARD', P .. 'queued:' .. queue) + others(queue),
    oldest[2] and math.max(0, now - tonumber(oldest[2])) or 0,
    length('LLEN', queue),
  }
end
return {
  now,
  queues,
  redis.call('ZCARD', P .. 'running'),
  redis.call('ZCARD', P .. 'delayed'),
  length('LLEN', 'dead_letter'),
  held,
  redis.call('HGETALL', P .. 'counts'),
  redis.call('HGETALL', P .. 'workers'),
}
