-- What every script has in common. ARGV[1] is the time in milliseconds, or 0 for the server's own.

local P = 'saggar:'
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local DAY = 86400000
local LETTERS = 10000
-- Whom the end of one job is told.
local HOOKS = 64
-- Jobs that may lie in Celery's list of a queue while no worker has said how many it takes at once.
local WINDOW = 8

local function record(id) return P .. 'job:' .. id end
local function line(queue, tenant) return P .. 'waiting:' .. queue .. ':' .. tenant end
local function count(name, by) redis.call('HINCRBY', P .. 'counts', name, by or 1) end
-- A tenant's jobs that are to be run and do not run: in line, sent, or delayed.
local function unstarted(tenant) return P .. 'unstarted:' .. tenant end
-- What stands for one who is told of one end, among all that are due.
local function hook(id, url) return id .. ' ' .. url end

-- How many a key has; 0 of one that somebody else filled with something of another kind.
local function length(command, key)
  local found = redis.pcall(command, key)
  return type(found) == 'number' and found or 0
end

-- From the tenants' lines to Celery's list, one job of each tenant in turn. A tenant is in the ring
-- of a queue as long as somebody stands in his line.
local function dispatch(queue)
  local kind = redis.call('TYPE', queue).ok
  if kind ~= 'list' and kind ~= 'none' then return end -- somebody's own key: his mistake, not ours
  local ring = P .. 'ring:' .. queue
  local room = (tonumber(redis.call('GET', P .. 'window:' .. queue)) or WINDOW)
    - redis.call('LLEN', queue)
  local turns = redis.call('LLEN', ring)
  while room > 0 and turns > 0 do
    local tenant = redis.call('LPOP', ring)
    local out = P .. 'out:' .. tenant
    local most = tonumber(redis.call('HGET', P .. 'running_most', tenant) or '')
    if most and redis.call('SCARD', out) >= most then
      redis.call('RPUSH', ring, tenant)
      turns = turns - 1
    else
      local id = redis.call('ZPOPMIN', line(queue, tenant))[1]
      if redis.call('ZCARD', line(queue, tenant)) > 0 then
        redis.call('RPUSH', ring, tenant)
      end
      local message = id and redis.call('HGET', record(id), 'message')
      if message then
        redis.call('LPUSH', queue, message)
        redis.call('ZADD', P .. 'sent:' .. queue, now, id)
        redis.call('SADD', out, id)
        room = room - 1
      end
      turns = redis.call('LLEN', ring)
    end
  end
end

-- To the end of its tenant's line, behind those of its priority.
local function enqueue(id, queue, tenant, priority)
  local place = tonumber(priority) * 1e14 + redis.call('INCR', P .. 'places')
  if redis.call('ZCARD', line(queue, tenant)) == 0 then
    redis.call('RPUSH', P .. 'ring:' .. queue, tenant)
  end
  redis.call('ZADD', line(queue, tenant), place, id)
  redis.call('ZADD', P .. 'queued:' .. queue, now, id)
  redis.call('SADD', P .. 'queues', queue)
  redis.call('SADD', unstarted(tenant), id)
  redis.call('HSET', record(id), 'state', 'queued')
end

local function postpone(id, tenant, due)
  redis.call('HSET', record(id), 'state', 'delayed')
  redis.call('ZADD', P .. 'delayed', due, id)
  redis.call('SADD', unstarted(tenant), id)
end

-- Out of all lines, lists and sets in which a job may stand.
local function withdraw(id, queue, tenant)
  redis.call('ZREM', line(queue, tenant), id)
  if redis.call('ZCARD', line(queue, tenant)) == 0 then
    redis.call('LREM', P .. 'ring:' .. queue, 0, tenant)
  end
  redis.call('ZREM', P .. 'sent:' .. queue, id)
  redis.call('ZREM', P .. 'queued:' .. queue, id)
  redis.call('ZREM', P .. 'delayed', id)
  redis.call('ZREM', P .. 'running', id)
  redis.call('SREM', P .. 'out:' .. tenant, id)
  redis.call('SREM', unstarted(tenant), id)
end

-- One who is to be told of the end of a job beside the others. False: there are enough.
local function also_tell(id, url)
  local told = redis.call('HGET', record(id), 'webhook') or ''
  if string.find(' ' .. told .. ' ', ' ' .. url .. ' ', 1, true) then return true end
  local _, others = string.gsub(told, '%S+', '')
  if others >= HOOKS then return false end
  redis.call('HSET', record(id), 'webhook', told == '' and url or told .. ' ' .. url)
  return true
end

local function tell_now(member)
  redis.call('ZADD', P .. 'webhooks', now, member)
  redis.call('HDEL', P .. 'webhook_tries', member)
end

local function tell_not(member)
  redis.call('ZREM', P .. 'webhooks', member)
  redis.call('HDEL', P .. 'webhook_tries', member)
end

-- Nothing follows: wake who waits. A waiter rotates this list, so one entry is enough for all.
local function finish(id, state, keep)
  redis.call('HSET', record(id), 'state', state, 'finished', now)
  redis.call('HDEL', record(id), 'message', 'token', 'cancel')
  redis.call('DEL', P .. 'done:' .. id)
  redis.call('RPUSH', P .. 'done:' .. id, state)
  redis.call('PEXPIRE', P .. 'done:' .. id, keep)
  -- A stream costs 4 kB: there is one only where a run took its time or somebody looks on.
  if redis.call('EXISTS', P .. 'events:' .. id, P .. 'watched:' .. id) > 0 then
    redis.call('XADD', P .. 'events:' .. id, '*', 'end', state)
    redis.call('PEXPIRE', P .. 'events:' .. id, 60000)
  end
  for url in string.gmatch(redis.call('HGET', record(id), 'webhook') or '', '%S+') do
    tell_now(hook(id, url))
  end
end

-- What is forgotten can still be told from what never was, for a day.
local function forget(id, keep)
  redis.call('PEXPIRE', record(id), keep)
  redis.call('SET', P .. 'past:' .. id, now, 'PX', keep + DAY)
end

-- Another submission of the same work is served from this one, or no longer.
local function close_slot(id, serve, keep)
  local slot = redis.call('HGET', record(id), 'slot')
  if slot and slot ~= '' and redis.call('GET', slot) == id then
    if serve then redis.call('PEXPIRE', slot, keep) else redis.call('DEL', slot) end
  end
end

-- The letter of a job is taken from the list, wherever it lies: the oldest ones are at its end.
local function take_letter(id, tenant)
  local letter = redis.call('HGET', record(id), 'letter')
  if letter then redis.call('LREM', 'dead_letter', -1, letter) end
  redis.call('HDEL', record(id), 'letter')
  if redis.call('ZREM', P .. 'letters:' .. tenant, id) == 1 then
    redis.call('ZINCRBY', P .. 'letters', -1, tenant)
    redis.call('ZREMRANGEBYSCORE', P .. 'letters', '-inf', 0)
  end
end

local function put_letter(id, tenant, letter, keep)
  redis.call('HSET', record(id), 'letter', letter)
  redis.call('LPUSH', 'dead_letter', letter)
  if redis.call('ZADD', P .. 'letters:' .. tenant, now, id) == 1 then
    redis.call('ZINCRBY', P .. 'letters', 1, tenant)
  end
  -- Whoever has the most of them loses his oldest: nobody can push out those of others.
  while redis.call('LLEN', 'dead_letter') > LETTERS do
    local most = redis.call('ZREVRANGE', P .. 'letters', 0, 0)[1]
    local oldest = most and redis.call('ZRANGE', P .. 'letters:' .. most, 0, 0)[1]
    local before = redis.call('LLEN', 'dead_letter')
    if oldest then
      take_letter(oldest, most)
      forget(oldest, keep)
    end
    -- Not one of ours, or it was taken out by hand.
    if redis.call('LLEN', 'dead_letter') == before then redis.call('RPOP', 'dead_letter') end
  end
end
