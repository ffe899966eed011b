-- A worker ends, and says so.
-- worker

return redis.call('HDEL', P .. 'workers', ARGV[2])
