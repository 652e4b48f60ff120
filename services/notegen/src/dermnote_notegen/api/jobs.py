"""The API's jobs: submit, cancel, report. One transaction creates the records and queues the RQ jobs."""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dermnote_contracts.notes import ENDED, Batch, ModelInfo, NoteJob, NoteRequest
from dermnote_contracts.problems import IdempotencyKeyReused, QueueFull, QueueUnavailable
from dermnote_http.logging import request_id
from dermnote_notegen.queue.records import IDEMPOTENCY, MODEL, Memory, NoteStore, Submission
from dermnote_notegen.queue.rq_queue import NoteQueue
from dermnote_notegen.settings import Settings
from dermnote_notegen.writing.strategies import note_facts

RETRY_AFTER_S = 5
# Share of Redis' maxmemory above which new notes are rejected; the rest is reserved for ending accepted ones.
FULL_SHARE = 0.85


@contextmanager
def queue_errors() -> Iterator[None]:
    """Turn a Redis that is full or does not answer into QueueUnavailable (503)."""
    try:
        yield
    except OutOfMemoryError as error:
        raise QueueUnavailable("Redis has no memory left (maxmemory); retry later", retry_after_s=60) from error
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise QueueUnavailable("Redis does not answer; retry", retry_after_s=RETRY_AFTER_S) from error


@dataclass(frozen=True)
class QueueStatistics:
    """The present state of the queue, and counts of all notes that ever ended in this Redis.

    `ended`: notes by status; `texts`: texts of finished notes by source (llm, template).
    """

    waiting: int
    running: int
    workers: int
    ended: dict[str, int]
    texts: dict[str, int]
    memory: Memory


class Jobs:
    """Submits and cancels notes; reads them through `store`.

    `owner` is the name of the caller's key: notes, batches and idempotency keys of other owners count as unknown.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self.store = NoteStore(redis, note_ttl_s=settings.note_ttl_s)
        self._queue = NoteQueue(redis, job_timeout_s=settings.job_timeout_s, retries=settings.job_retries)
        self._max_waiting = settings.max_waiting
        self._ttl_s = settings.note_ttl_s

    def submit(self, request: NoteRequest, *, owner: str = "", idempotency_key: str | None = None) -> NoteJob:
        """Queue one note; an idempotency key that was used with the same body returns the first note."""
        note_facts(request)
        submission = Submission([request], [uuid.uuid4().hex], owner=owner, request_id=request_id())
        return self.store.get(self._submit(submission, key=idempotency_key), owner=owner)

    def submit_batch(
        self, requests: Sequence[NoteRequest], *, owner: str = "", idempotency_key: str | None = None
    ) -> Batch:
        """Queue all notes of a batch or none."""
        for request in requests:
            note_facts(request)
        ids = [uuid.uuid4().hex for _ in requests]
        submission = Submission(requests, ids, uuid.uuid4().hex, owner, request_id())
        batch_id = self._submit(submission, key=idempotency_key)
        return self.store.batch(batch_id, owner=owner)

    def _submit(self, submission: Submission, *, key: str | None) -> str:
        new_id = submission.batch_id or submission.note_ids[0]
        self._reject_if_full(len(submission.requests))
        while True:
            try:
                return self._transaction(submission, new_id, key)
            except WatchError:
                continue  # another request with this key was faster: return what it queued

    def _transaction(self, submission: Submission, new_id: str, key: str | None) -> str:
        with self._redis.pipeline() as pipe:
            if key is not None:
                stored_key = IDEMPOTENCY.format(_digest(submission.owner, key) if submission.owner else _digest(key))
                fingerprint = _digest(*(request.model_dump_json() for request in submission.requests))
                pipe.watch(stored_key)  # type: ignore[no-untyped-call]
                earlier = self._redis.get(stored_key)
                if earlier is not None:
                    submitted = json.loads(earlier)
                    if submitted["body"] != fingerprint:
                        raise IdempotencyKeyReused("use a new key for a new request")
                    return str(submitted["id"])
                pipe.multi()
                pipe.set(stored_key, json.dumps({"id": new_id, "body": fingerprint}), ex=self._ttl_s)
            self.store.add(pipe, submission)
            self._queue.put(pipe, submission.note_ids)
            pipe.execute()
        return new_id

    def _reject_if_full(self, more: int) -> None:
        memory = self.store.memory()
        if memory.limit and memory.used > FULL_SHARE * memory.limit:
            raise QueueFull(
                f"Redis uses {memory.used >> 20} of {memory.limit >> 20} MiB, mostly for ended notes: fetch and "
                "DELETE them, shorten their time to live (NOTEGEN_NOTE_TTL_S), or give Redis more memory",
                retry_after_s=60,
            )
        waiting = self._queue.waiting()
        if waiting + more > self._max_waiting:
            raise QueueFull(f"{waiting} notes are waiting; the limit is {self._max_waiting}", retry_after_s=60)

    def delete(self, note_id: str, *, owner: str = "") -> NoteJob | None:
        """Cancel a note that has not ended (and return it), or erase one that has (None); raises UnknownNote."""
        job = self.store.get(note_id, owner=owner)
        if job.status not in ENDED and self.store.cancel(note_id):
            self._queue.drop(note_id)
            return self.store.get(note_id, owner=owner)
        self.store.erase(note_id)
        return None

    def cancel_batch(self, batch_id: str, *, owner: str = "") -> Batch:
        """Cancel the notes of a batch that have not ended; raises UnknownBatch."""
        for note_id in self.store.batch_note_ids(batch_id, owner=owner):
            if self.store.cancel(note_id):
                self._queue.drop(note_id)
        return self.store.batch(batch_id, owner=owner)

    def model(self) -> ModelInfo | None:
        """The model that the workers last reported; None without a recent report."""
        body = self._redis.get(MODEL)
        return None if body is None else ModelInfo.model_validate_json(body)

    def statistics(self) -> QueueStatistics:
        """The values of /metrics; raises QueueUnavailable."""
        with queue_errors():
            ended, texts = self.store.ended_counts()
            return QueueStatistics(
                waiting=self._queue.waiting(),
                running=self._queue.running(),
                workers=self._queue.workers_alive(),
                ended=ended,
                texts=texts,
                memory=self.store.memory(),
            )

    def checks(self) -> dict[str, str]:
        """Readiness checks by name: "ok" or the problem."""
        try:
            self._redis.ping()
            workers = self._queue.workers_alive()
            model = self._redis.get(MODEL)
        except RedisError:
            return {"redis": "does not answer", "worker": "unknown", "model": "unknown"}
        return {
            "redis": "ok",
            "worker": "ok" if workers else "none is alive",
            "model": "ok" if model else "not loaded",
        }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
