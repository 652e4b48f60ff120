"""The one door to RQ: enqueue by name and JSON, and a worker that finds orphans fast.

RQ jobs carry an opaque note id and nothing of the patient. Its own defaults would fail an orphan (no Retry), or find it
after ten minutes; here a dead worker's job runs again within a minute.
"""

from collections.abc import Callable, Iterable
from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Retry, Worker
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.utils import now
from rq.worker import BaseWorker

QUEUE_NAME = "notes"
TASK = "dermnote_notegen.worker.write_note"
WORKER_STALE_S = 30
MONITOR_S = 5


class NoteQueue:
    """Notes waiting to be written."""

    def __init__(self, redis: Redis, *, job_timeout_s: int, retries: int) -> None:
        self._redis = redis
        self._queue = Queue(QUEUE_NAME, connection=redis, serializer="json")
        self._job_timeout_s = job_timeout_s
        self._retries = retries

    def put(self, pipe: Pipeline, note_ids: Iterable[str]) -> None:
        """Queue jobs in a transaction that the caller executes."""
        jobs = [
            Queue.prepare_data(
                TASK,
                args=(note_id,),
                job_id=note_id,
                timeout=self._job_timeout_s,
                retry=Retry(max=self._retries),
                result_ttl=0,
                failure_ttl=7 * 24 * 3600,
                description="write one note",
            )
            for note_id in note_ids
        ]
        self._queue.enqueue_many(jobs, pipeline=pipe)

    def waiting(self) -> int:
        """Jobs that no worker has taken yet."""
        return self._queue.count

    def workers_alive(self) -> int:
        """Workers whose last heartbeat is fresh."""
        workers = Worker.all(queue=self._queue)
        return sum(1 for worker in workers if _age_s(worker) < WORKER_STALE_S)

    def drop(self, note_id: str) -> None:
        """Forget a job that need not run any more; harmless when it is gone or running."""
        job = self._queue.fetch_job(note_id)
        if job is not None:
            self._queue.remove(job)


def _age_s(worker: BaseWorker) -> float:
    return float("inf") if worker.last_heartbeat is None else (now() - worker.last_heartbeat).total_seconds()


class NoteWorker(Worker):
    """RQ's forking worker with short heartbeats, early orphan recovery and an end for every note.

    `on_failed(note_id)` is called for each job that RQ has given up; `on_heartbeat()` from the parent process only.
    """

    max_connection_wait_time = 5.0

    def __init__(
        self,
        *args: Any,
        orphan_after_s: int,
        on_failed: Callable[[str], None],
        on_heartbeat: Callable[[], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._orphan_after_s = orphan_after_s
        self._on_failed = on_failed
        self._on_heartbeat = on_heartbeat

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Seconds without a heartbeat after which a job counts as abandoned."""
        return int(self.job_monitoring_interval) + self._orphan_after_s

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's heartbeat, and ours from the parent."""
        super().heartbeat(timeout, pipeline)
        if not self._is_horse:
            self._on_heartbeat()

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        """RQ's handling (retry or fail); a job that failed for good ends its note."""
        given_up = not job.should_retry
        super().handle_job_failure(job, queue, *args, **kwargs)
        if given_up:
            self._on_failed(job.id)

    def clean_registries(self) -> None:
        """RQ's maintenance; then jobs stuck between queue and worker run again, and failed jobs end their notes."""
        super().clean_registries()  # type: ignore[no-untyped-call]
        for queue in self.queues:
            self._requeue_stuck(queue)
            for note_id in FailedJobRegistry(queue=queue).get_job_ids(cleanup=False):
                self._on_failed(note_id)

    def _requeue_stuck(self, queue: Queue) -> None:
        """A worker that dies between taking a job and starting it leaves it in RQ's intermediate list."""
        intermediate = queue.intermediate_queue
        for note_id in intermediate.get_job_ids():
            seen = intermediate.get_first_seen(note_id)
            if seen is None or (now() - seen).total_seconds() < self._orphan_after_s:
                continue
            with self.connection.pipeline() as pipe:
                pipe.lrem(intermediate.key, 1, note_id)
                pipe.delete(intermediate.get_first_seen_key(note_id))
                queue.push_job_id(note_id, pipeline=pipe)
                pipe.execute()


def make_worker(
    redis: Redis,
    *,
    maintenance_interval_s: int,
    orphan_after_s: int,
    on_failed: Callable[[str], None],
    on_heartbeat: Callable[[], None],
) -> NoteWorker:
    """A worker on the note queue; its `work()` blocks until a signal ends it after the note in hand."""
    return NoteWorker(
        [QUEUE_NAME],
        connection=redis,
        serializer="json",
        worker_ttl=20,
        job_monitoring_interval=MONITOR_S,
        maintenance_interval=maintenance_interval_s,
        log_job_description=False,
        orphan_after_s=orphan_after_s,
        on_failed=on_failed,
        on_heartbeat=on_heartbeat,
    )
