-- KEYS: the set of gateways. ARGV: this gateway's id, and for how many microseconds one counts that is not
-- heard of. The answer: how many gateways there are.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], math.floor(ARGV[2] / 1000))
return redis.call('ZCARD', KEYS[1])
