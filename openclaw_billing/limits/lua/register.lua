-- KEYS: the set of gateways, and since when this server counts. ARGV: this gateway's id, and for how many
-- microseconds one counts that is not heard of. The answer: how many gateways there are, and since when.
local DAY = 86400000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], math.floor(ARGV[2] / 1000))
redis.call('SET', KEYS[2], string.format('%.0f', now), 'NX')
redis.call('PEXPIRE', KEYS[2], DAY)
return {redis.call('ZCARD', KEYS[1]), tonumber(redis.call('GET', KEYS[2]))}
