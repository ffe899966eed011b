-- One who was to be told of the end of a job was, or is to be later.
-- id, URL, milliseconds; -1: he was; -2: he was not, and will not be

local member, later = hook(ARGV[2], ARGV[3]), tonumber(ARGV[4])
if later >= 0 then
  redis.call('ZADD', P .. 'webhooks', 'XX', now + later, member)
else
  if later == -2 then count('webhooks_lost') end
  tell_not(member)
end
return 1
