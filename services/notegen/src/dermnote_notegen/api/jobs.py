"""The API's access to note jobs, with the queue's Prometheus metrics, and the FastAPI dependencies of the routes."""

import hashlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Header, Request
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dermnote_contracts.notes import ENDED, Batch, ModelInfo, NoteJob, NoteRequest
from dermnote_contracts.problems import IdempotencyKeyReused, InvalidRequest, QueueFull, QueueUnavailable
from dermnote_http.auth import Caller, caller_of
from dermnote_http.logging import request_id
from dermnote_notegen.queue.records import IDEMPOTENCY, MODEL, NoteStore, Submission
from dermnote_notegen.queue.rq_queue import NoteQueue
from dermnote_notegen.settings import Settings
from dermnote_notegen.writing.priors import Priors
from dermnote_notegen.writing.strategies import note_facts

RETRY_AFTER_S = 5
MAX_WAIT_S = 60
# Share of Redis' maxmemory above which new notes are rejected; the rest is reserved for the results of accepted ones.
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


class Jobs(Collector):
    """Submits and cancels notes; reads them through `store`. A Prometheus collector of the queue.

    `owner` is the name of the caller's key: notes, batches and idempotency keys of other owners are treated as unknown.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self.store = NoteStore(redis, note_ttl_s=settings.note_ttl_s)
        self._queue = NoteQueue(redis, job_timeout_s=settings.job_timeout_s, retries=settings.job_retries)
        self._max_waiting = settings.max_waiting
        self._ttl_s = settings.note_ttl_s

    def submit(self, request: NoteRequest, *, owner: str = "", idempotency_key: str | None = None) -> NoteJob:
        """Queue one note; if the idempotency key was used with the same body before, returns the note queued then."""
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
                continue  # another request used this key in the meantime: return what it queued

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
        """Cancel a note that has not ended and return it, or erase an ended one and return None; raises UnknownNote."""
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

    def collect(self) -> Iterator[Metric]:
        """Queue length, workers, ended notes and Redis' memory, read from Redis at each scrape. Contains no ids."""
        try:
            with queue_errors():
                states = {"waiting": self._queue.waiting(), "running": self._queue.running()}
                workers = self._queue.workers_alive()
                ended, texts = self.store.ended_counts()
                memory = self.store.memory()
        except QueueUnavailable:
            yield GaugeMetricFamily("dermnote_notegen_redis_up", "1 while Redis responds", value=0)
            return
        bytes_ = {"used": memory.used, "limit": memory.limit}
        yield GaugeMetricFamily("dermnote_notegen_redis_up", "1 while Redis responds", value=1)
        yield GaugeMetricFamily("dermnote_notegen_workers", "Workers with a fresh heartbeat", value=workers)
        yield _family(GaugeMetricFamily, "jobs", "Notes waiting and running", "state", states)
        yield _family(GaugeMetricFamily, "redis_bytes", "Memory of Redis: used, limit (0: none)", "what", bytes_)
        yield _family(CounterMetricFamily, "notes_ended", "Ended notes by status", "status", ended)
        yield _family(CounterMetricFamily, "texts", "Texts of finished notes by source", "source", texts)

    def describe(self) -> list[Metric]:
        """Empty: registration must not need Redis, which may not be up yet."""
        return []

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


def _family(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    meaning: str,
    label: str,
    values: Mapping[str, int],
) -> Metric:
    family = kind(f"dermnote_notegen_{name}", meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


async def get_jobs(request: Request) -> AsyncIterator[Jobs]:
    """The app's jobs; Redis errors of a route become QueueUnavailable."""
    with queue_errors():
        yield request.app.state.jobs


def get_priors(request: Request) -> Priors:
    """The app's clinical priors."""
    priors: Priors = request.app.state.priors
    return priors


def preferred_wait_s(prefer: Annotated[str | None, Header()] = None) -> int:
    """Seconds of `Prefer: wait=N` (RFC 7240), at most 60; 0 without it."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?:$|[,;\s])", prefer or "", re.IGNORECASE)
    return min(int(match[1]), MAX_WAIT_S) if match else 0


def idempotency_key(key: Annotated[str | None, Header(alias="Idempotency-Key")] = None) -> str | None:
    """The Idempotency-Key, 1 to 255 printable characters."""
    if key is not None and not (1 <= len(key) <= 255 and key.isprintable()):
        raise InvalidRequest("Idempotency-Key must have 1 to 255 printable characters")
    return key


CallerDep = Annotated[Caller, Depends(caller_of)]
PriorsDep = Annotated[Priors, Depends(get_priors)]
JobsDep = Annotated[Jobs, Depends(get_jobs)]
WaitS = Annotated[int, Depends(preferred_wait_s)]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
