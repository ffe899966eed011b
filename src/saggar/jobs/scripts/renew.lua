-- A sign of life for each lease. A lease that ran out is still good while nobody else has the job.
-- lease, then id and token of each

local lease, said = tonumber(ARGV[2]), {}
for at = 3, #ARGV, 2 do
  local found = redis.call('HMGET', record(ARGV[at]), 'state', 'token', 'cancel')
  if found[1] ~= 'running' or found[2] ~= ARGV[at + 1] then
    said[#said + 1] = 'lost'
  else
    redis.call('ZADD', P .. 'running', 'XX', now + lease, ARGV[at])
    said[#said + 1] = found[3] and 'cancel' or 'ok'
  end
end
return said
