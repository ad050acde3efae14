-- The rule of gcra.py for a batch of calls, by this server's clock. KEYS: since when this server counts, then
-- each call's key. ARGV, for each: how many limits it has, then each limit's interval and span. The answer: now,
-- since when, then what was stored of every limit before; the caller works out the verdict from that, by the
-- same rule.
local SLACK, DAY = 1000000, 86400000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local began = redis.call('GET', KEYS[1])
if not began then
  -- It was emptied, or is another server: what it was told before is lost.
  began = string.format('%.0f', now)
  redis.call('SET', KEYS[1], began, 'PX', DAY)
end
local answer, at = {now, tonumber(began)}, 1
for call = 2, #KEYS do
  local stored = {}
  for part in string.gmatch(redis.call('GET', KEYS[call]) or '', '%d+') do
    stored[#stored + 1] = tonumber(part)
  end
  local count, allowed, furthest = tonumber(ARGV[at]), true, now
  local moved = {}
  for limit = 1, count do
    local interval, span = tonumber(ARGV[at + 2 * limit - 1]), tonumber(ARGV[at + 2 * limit])
    local before = stored[limit] or 0
    answer[#answer + 1] = before
    if before < now or before > now + span + SLACK then before = now end
    local after = before + interval
    if after > now + span then allowed = false end
    furthest = math.max(furthest, after)
    -- Not tostring: it would round what is longer than fourteen digits.
    moved[limit] = string.format('%.0f', after)
  end
  if allowed then
    -- Once the last of it is over, nothing stored and nothing there are the same.
    redis.call('SET', KEYS[call], table.concat(moved, ' '), 'PX', math.floor((furthest - now) / 1000) + 1)
  end
  at = at + 1 + 2 * count
end
return answer
