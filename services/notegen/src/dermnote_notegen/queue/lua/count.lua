-- Counts notes by status. Returns status, count, status, count ...; erased and expired notes are left out.
-- KEYS: the notes
local counts = {}
for _, note in ipairs(KEYS) do
  local status = redis.call('HGET', note, 'status')
  if status then counts[status] = (counts[status] or 0) + 1 end
end
local answer = {}
for status, count in pairs(counts) do
  answer[#answer + 1] = status
  answer[#answer + 1] = count
end
return answer
