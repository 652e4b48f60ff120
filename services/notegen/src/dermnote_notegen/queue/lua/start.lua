-- Marks a note as running. Returns its request and request id, or nil if the note has ended or is gone.
-- KEYS: note
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return nil end
redis.call('HSET', KEYS[1], 'status', 'running')
return redis.call('HMGET', KEYS[1], 'request', 'request_id')
