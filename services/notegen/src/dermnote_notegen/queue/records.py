"""Note records in Redis: the request, state and result of each note, and the notes of each batch.

The record is authoritative for a note; RQ only schedules the work. A note ends in one atomic step that has an effect
only the first time, so the note ends exactly once, however often its job runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter
from redis import Redis
from redis.client import Pipeline
from redis.commands.core import Script

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


@dataclass(frozen=True)
class Submission:
    """The notes that one API call queues, in order, with their ids; `batch_id` is set for a batch.

    `owner`: the name of the caller's API key; empty in a service without keys. `request_id`: the id of the API call.
    """

    requests: Sequence[NoteRequest]
    note_ids: Sequence[str]
    batch_id: str | None = None
    owner: str = ""
    request_id: str | None = None


@dataclass(frozen=True)
class StartedNote:
    """A note to write, and the id of the API call that queued it."""

    request: NoteRequest
    request_id: str | None


@dataclass(frozen=True)
class Memory:
    """Memory of Redis in bytes: used, and its limit (0: no limit)."""

    used: int
    limit: int


class NoteStore:
    """Reads and writes note records.

    Methods that take an `owner` see the records of that owner only; all others count as unknown.
    """

    def __init__(self, redis: Redis, *, note_ttl_s: int) -> None:
        self._redis = redis
        self._note_ttl_s = note_ttl_s
        self._start, self._end_once, self._count = (_script(redis, name) for name in ("start", "end_once", "count"))

    def add(self, pipe: Pipeline, submission: Submission) -> None:
        """Add the commands that create the records to `pipe`, a transaction that the caller extends and executes."""
        created_at = _now()
        owner: dict[Any, Any] = {"owner": submission.owner} if submission.owner else {}
        origin = owner | ({"request_id": submission.request_id} if submission.request_id else {})
        for index, (note_id, request) in enumerate(zip(submission.note_ids, submission.requests, strict=True)):
            fields: dict[Any, Any] = {
                "request": request.model_dump_json(),
                "status": "queued",
                "created_at": created_at,
            } | origin
            if submission.batch_id is not None:
                fields |= {"index": index, "batch": submission.batch_id}
            pipe.hset(NOTE.format(note_id), mapping=fields)
        if submission.batch_id is not None:
            pipe.hset(BATCH.format(submission.batch_id), mapping={"created_at": created_at} | owner)
            pipe.rpush(BATCH_NOTES.format(submission.batch_id), *submission.note_ids)

    def get(self, note_id: str, *, owner: str = "") -> NoteJob:
        """Read a job as the API returns it; raises UnknownNote."""
        record = _decoded(self._redis.hgetall(NOTE.format(note_id)))
        if not _owned(record, owner):
            raise UnknownNote()
        return _job(note_id, record)

    def start(self, note_id: str) -> StartedNote | None:
        """Mark a note as running and return its request; None if the note has ended or is gone."""
        started = self._start(keys=[NOTE.format(note_id)])
        if started is None:
            return None
        body, request_id = started
        return StartedNote(NoteRequest.model_validate_json(body), None if request_id is None else _text(request_id))

    def finish(self, note_id: str, notes: list[Note]) -> bool:
        """Finish a note with its texts; False if it had already ended."""
        sources = [note.provenance.source for note in notes]
        return self._end(note_id, "finished", notes=_NOTES.dump_json(notes).decode(), sources=sources)

    def fail(self, note_id: str, problem: Problem) -> bool:
        """End a note as failed with a reason; False if it had already ended."""
        return self._end(note_id, "failed", error=problem.model_dump_json())

    def cancel(self, note_id: str) -> bool:
        """End a note as cancelled; False if it had already ended."""
        return self._end(note_id, "cancelled")

    def erase(self, note_id: str) -> None:
        """Delete a record."""
        self._redis.delete(NOTE.format(note_id))

    def _end(
        self, note_id: str, status: Status, *, notes: str = "[]", error: str = "", sources: Sequence[str] = ()
    ) -> bool:
        keys = [NOTE.format(note_id), ENDED_COUNTS, TEXT_COUNTS]
        batch_id = self._redis.hget(keys[0], "batch")  # never changes, so it may be read before the script runs
        if batch_id is not None:
            keys += [key.format(_text(batch_id)) for key in (BATCH, BATCH_NOTES)]
        return bool(self._end_once(keys=keys, args=[status, _now(), notes, error, self._note_ttl_s, *sources]))

    def memory(self) -> Memory:
        """Read Redis' memory usage and limit."""
        info = self._redis.info("memory")
        return Memory(used=int(info["used_memory"]), limit=int(info["maxmemory"]))

    def ended_counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Count all notes that ever ended, by status, and the finished texts, by source. Erased notes count too."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(ENDED_COUNTS)
            pipe.hgetall(TEXT_COUNTS)
            ended, texts = pipe.execute()
        return _counts(ended), _counts(texts)

    def batch_note_ids(self, batch_id: str, *, owner: str = "") -> list[str]:
        """Read the ids of a batch's notes in their order; raises UnknownBatch."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(BATCH.format(batch_id))
            pipe.lrange(BATCH_NOTES.format(batch_id), 0, -1)
            record, note_ids = pipe.execute()
        if not _owned(_decoded(record), owner):
            raise UnknownBatch()
        return [_text(note_id) for note_id in note_ids]

    def batch(self, batch_id: str, *, owner: str = "") -> Batch:
        """Count a batch's notes by status, without erased and expired ones; raises UnknownBatch."""
        note_ids = self.batch_note_ids(batch_id, owner=owner)
        answer = self._count(keys=[NOTE.format(note_id) for note_id in note_ids])
        counts = {_text(status): count for status, count in zip(answer[::2], answer[1::2], strict=True)}
        return Batch(id=batch_id, total=len(note_ids), counts=Counts(**counts))

    def ended_in_batch(self, batch_id: str, *, owner: str = "") -> list[NoteJob]:
        """Read the ended jobs of a batch, in order; raises UnknownBatch."""
        note_ids = self.batch_note_ids(batch_id, owner=owner)
        with self._redis.pipeline(transaction=False) as pipe:
            for note_id in note_ids:
                pipe.hgetall(NOTE.format(note_id))
            records = zip(note_ids, pipe.execute(), strict=True)
        jobs = [_job(note_id, _decoded(record)) for note_id, record in records if record]
        return [job for job in jobs if job.status in ENDED]


def _script(redis: Redis, name: str) -> Script:
    return redis.register_script((files(__package__) / "lua" / f"{name}.lua").read_text())


def _decoded(record: Mapping[bytes | str, bytes | str]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in record.items()}


def _counts(record: Mapping[bytes | str, bytes | str]) -> dict[str, int]:
    return {name: int(count) for name, count in _decoded(record).items()}


def _owned(record: dict[str, str], owner: str) -> bool:
    return bool(record) and record.get("owner", "") == owner


def _job(note_id: str, record: dict[str, str]) -> NoteJob:
    return NoteJob.model_validate(
        {
            "id": note_id,
            "status": record["status"],
            "created_at": record["created_at"],
            "finished_at": record.get("finished_at"),
            "notes": _NOTES.validate_json(record["notes"]) if record.get("notes") else [],
            "error": Problem.model_validate_json(record["error"]) if record.get("error") else None,
            "index": record.get("index"),
        }
    )


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
