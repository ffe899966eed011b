-- What is known of a job, and its result where that is on this server.
-- id, database of jobs, database of results

local id = ARGV[2]
local fields = redis.call('HGETALL', record(id))
if #fields == 0 then return {fields, redis.call('EXISTS', P .. 'past:' .. id)} end
local token = redis.call('HGET', record(id), 'settled')
local result = false
if token and ARGV[3] ~= '' then
  redis.call('SELECT', ARGV[4])
  result = redis.call('GET', P .. 'result:' .. id .. ':' .. token)
  redis.call('SELECT', ARGV[3])
end
return {fields, 0, result}
