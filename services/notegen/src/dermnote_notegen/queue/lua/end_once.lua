-- Ends a note. Returns 1 if this call ended it, 0 if it had already ended or is gone.
-- KEYS: note, counts of ended notes, counts of texts; then whatever must live as long as the note (its batch's keys)
-- ARGV: status, finished_at, notes, error, ttl_s; then the source of each text
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[1], 'finished_at', ARGV[2], 'notes', ARGV[3], 'error', ARGV[4])
redis.call('HDEL', KEYS[1], 'request')
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
for place = 6, #ARGV do redis.call('HINCRBY', KEYS[3], ARGV[place], 1) end
for place = 4, #KEYS do redis.call('EXPIRE', KEYS[place], ARGV[5]) end
return 1
