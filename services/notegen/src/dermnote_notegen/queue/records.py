"""Note records in Redis: request, state and result of each note, and which notes a batch holds.

The record is the truth about a note; RQ only says who should work on it next. Ending a note is one atomic step that
the first caller wins, so a note ends exactly once however often its job runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from redis import Redis
from redis.client import Pipeline

from dermnote_contracts.notes import ENDED, Batch, Counts, Note, NoteJob, NoteRequest, Status
from dermnote_contracts.problems import Problem, UnknownBatch, UnknownNote

NOTE = "notegen:note:{}"
BATCH = "notegen:batch:{}"
BATCH_NOTES = "notegen:batch:{}:notes"
IDEMPOTENCY = "notegen:idempotency:{}"
MODEL = "notegen:model"
ENDED_COUNTS = "notegen:counts:ended"
TEXT_COUNTS = "notegen:counts:texts"
_NOTES = TypeAdapter(list[Note])

# KEYS: note, counts of ended notes, counts of texts; ARGV: status, finished_at, notes, error, ttl_s, then the source of
# each text. 1 if this call ended the note; its batch lives on as long.
END_ONCE = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[1], 'finished_at', ARGV[2], 'notes', ARGV[3], 'error', ARGV[4])
redis.call('HDEL', KEYS[1], 'request')
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
for place = 6, #ARGV do redis.call('HINCRBY', KEYS[3], ARGV[place], 1) end
local batch = redis.call('HGET', KEYS[1], 'batch')
if batch then
  redis.call('EXPIRE', 'notegen:batch:' .. batch, ARGV[5])
  redis.call('EXPIRE', 'notegen:batch:' .. batch .. ':notes', ARGV[5])
end
return 1
"""
# KEYS: a batch's notes. How many there are, then each status and how often it came; a note that is gone has none.
COUNT = """
local ids = redis.call('LRANGE', KEYS[1], 0, -1)
local counts = {}
for _, id in ipairs(ids) do
  local status = redis.call('HGET', 'notegen:note:' .. id, 'status')
  if status then counts[status] = (counts[status] or 0) + 1 end
end
local answer = {#ids}
for status, count in pairs(counts) do
  answer[#answer + 1] = status
  answer[#answer + 1] = count
end
return answer
"""
START = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'status', 'running')
return 1
"""


@dataclass(frozen=True)
class Submission:
    """What one call of the API queues: its notes in order, with their ids, and a batch id if it is a batch.

    `owner`: the name of the key that asked; empty in a service without keys.
    """

    requests: Sequence[NoteRequest]
    note_ids: Sequence[str]
    batch_id: str | None = None
    owner: str = ""


@dataclass(frozen=True)
class Memory:
    """Bytes that Redis holds, and may hold; `limit` 0: no limit is set."""

    used: int
    limit: int


class NoteStore:
    """Reads and writes note records. Every method is one round trip or one atomic step.

    What takes an `owner` knows the records of that owner alone: all others are as unknown as if they were not there.
    """

    def __init__(self, redis: Redis, *, note_ttl_s: int) -> None:
        self._redis = redis
        self._note_ttl_s = note_ttl_s

    def add(self, pipe: Pipeline, submission: Submission) -> None:
        """Queue the records' creation in a transaction that the caller executes together with the RQ jobs."""
        created_at = _now()
        owner: dict[Any, Any] = {"owner": submission.owner} if submission.owner else {}
        for index, (note_id, request) in enumerate(zip(submission.note_ids, submission.requests, strict=True)):
            fields: dict[Any, Any] = {
                "request": request.model_dump_json(),
                "status": "queued",
                "created_at": created_at,
            } | owner
            if submission.batch_id is not None:
                fields |= {"index": index, "batch": submission.batch_id}
            pipe.hset(NOTE.format(note_id), mapping=fields)
        if submission.batch_id is not None:
            pipe.hset(BATCH.format(submission.batch_id), mapping={"created_at": created_at} | owner)
            pipe.rpush(BATCH_NOTES.format(submission.batch_id), *submission.note_ids)

    def request(self, note_id: str) -> NoteRequest | None:
        """What was asked for, or None once the note has ended (a note's facts are kept no longer than needed)."""
        body = self._redis.hget(NOTE.format(note_id), "request")
        return None if body is None else NoteRequest.model_validate_json(body)

    def get(self, note_id: str, *, owner: str = "") -> NoteJob:
        """The job as the API shows it; raises UnknownNote."""
        record = _decoded(self._redis.hgetall(NOTE.format(note_id)))
        if not _owned(record, owner):
            raise UnknownNote()
        return _job(note_id, record)

    def start(self, note_id: str) -> bool:
        """Mark as running; False when it has already ended, or is gone."""
        return bool(self._redis.eval(START, 1, NOTE.format(note_id)))

    def finish(self, note_id: str, notes: list[Note]) -> bool:
        """Finish a note with its texts; False when it had already ended."""
        sources = [note.provenance.source for note in notes]
        return self._end(note_id, "finished", notes=_NOTES.dump_json(notes).decode(), sources=sources)

    def fail(self, note_id: str, problem: Problem) -> bool:
        """End a note as failed with a reason; False when it had already ended."""
        return self._end(note_id, "failed", error=problem.model_dump_json())

    def cancel(self, note_id: str) -> bool:
        """End a note as cancelled; False when it had already ended."""
        return self._end(note_id, "cancelled")

    def erase(self, note_id: str) -> None:
        """Remove a record for good."""
        self._redis.delete(NOTE.format(note_id))

    def _end(
        self, note_id: str, status: Status, *, notes: str = "[]", error: str = "", sources: Sequence[str] = ()
    ) -> bool:
        keys = (NOTE.format(note_id), ENDED_COUNTS, TEXT_COUNTS)
        ending: list[str | int] = [status, _now(), notes, error, self._note_ttl_s, *sources]
        return bool(self._redis.eval(END_ONCE, len(keys), *keys, *ending))

    def memory(self) -> Memory:
        """What Redis itself says of its memory."""
        told = self._redis.info("memory")
        return Memory(used=int(told["used_memory"]), limit=int(told["maxmemory"]))

    def ended_counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """All notes that ever ended, by status; the texts of finished ones, by source. Erased ones count too."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(ENDED_COUNTS)
            pipe.hgetall(TEXT_COUNTS)
            ended, texts = pipe.execute()
        return _counts(ended), _counts(texts)

    def batch_note_ids(self, batch_id: str, *, owner: str = "") -> list[str]:
        """The notes of a batch in their order; raises UnknownBatch."""
        self._require_batch(batch_id, owner)
        return [_text(note_id) for note_id in self._redis.lrange(BATCH_NOTES.format(batch_id), 0, -1)]

    def _require_batch(self, batch_id: str, owner: str) -> None:
        if not _owned(_decoded(self._redis.hgetall(BATCH.format(batch_id))), owner):
            raise UnknownBatch()

    def batch(self, batch_id: str, *, owner: str = "") -> Batch:
        """How far a batch is. An erased or expired note counts as none; raises UnknownBatch."""
        self._require_batch(batch_id, owner)
        total, *found = self._redis.eval(COUNT, 1, BATCH_NOTES.format(batch_id))
        statuses = (_text(status) for status in found[::2])
        return Batch(id=batch_id, total=total, counts=Counts(**dict(zip(statuses, found[1::2], strict=True))))

    def ended_in_batch(self, batch_id: str, *, owner: str = "") -> list[NoteJob]:
        """The ended jobs of a batch, in order; raises UnknownBatch."""
        note_ids = self.batch_note_ids(batch_id, owner=owner)
        with self._redis.pipeline(transaction=False) as pipe:
            for note_id in note_ids:
                pipe.hgetall(NOTE.format(note_id))
            records = zip(note_ids, pipe.execute(), strict=True)
        jobs = [_job(note_id, _decoded(record)) for note_id, record in records if record]
        return [job for job in jobs if job.status in ENDED]


def _decoded(record: Mapping[bytes | str, bytes | str]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in record.items()}


def _counts(record: Mapping[bytes | str, bytes | str]) -> dict[str, int]:
    return {name: int(count) for name, count in _decoded(record).items()}


def _owned(record: dict[str, str], owner: str) -> bool:
    return bool(record) and record.get("owner", "") == owner


def _job(note_id: str, text: dict[str, str]) -> NoteJob:
    return NoteJob.model_validate(
        {
            "id": note_id,
            "status": text["status"],
            "created_at": text["created_at"],
            "finished_at": text.get("finished_at"),
            "notes": _NOTES.validate_json(text["notes"]) if text.get("notes") else [],
            "error": Problem.model_validate_json(text["error"]) if text.get("error") else None,
            "index": text.get("index"),
        }
    )


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
