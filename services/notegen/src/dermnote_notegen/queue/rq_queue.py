"""The only module that uses RQ: enqueues jobs by name and JSON, runs them, and recovers those of dead workers.

RQ jobs carry an opaque note id and no patient data. With RQ's defaults, the job of a worker that died fails, or waits
ten minutes if it may be retried; here it runs again within a minute.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue, Retry, Worker
from rq.executions import Execution
from rq.job import Job
from rq.registry import FailedJobRegistry, StartedJobRegistry, clean_registries
from rq.timeouts import JobTimeoutException
from rq.utils import now, utcparse
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import clean_worker_registry

log = logging.getLogger(__name__)
QUEUE_NAME = "notes"
TASK = "dermnote_notegen.worker.write_note"
WORKER_STALE_S = 30
WORKER_TTL_S = (25, 30)  # RQ blocks for 15 s less than this; drawn at random so that workers don't all poll at once
MONITOR_S = 5


class NoteQueue:
    """The queue of notes to write."""

    def __init__(self, redis: Redis, *, job_timeout_s: int, retries: int) -> None:
        self._redis = redis
        self._queue = Queue(QUEUE_NAME, connection=redis, serializer="json")
        self._job_timeout_s = job_timeout_s
        self._retries = retries

    def put(self, pipe: Pipeline, note_ids: Iterable[str]) -> None:
        """Enqueue jobs in a transaction that the caller executes."""
        jobs = [
            Queue.prepare_data(
                TASK,
                args=(note_id,),
                job_id=note_id,
                timeout=self._job_timeout_s,
                retry=Retry(max=self._retries, enqueue_at_front=True),
                result_ttl=0,
                failure_ttl=7 * 24 * 3600,
                description="write one note",
            )
            for note_id in note_ids
        ]
        self._queue.enqueue_many(jobs, pipeline=pipe)

    def waiting(self) -> int:
        """Count the jobs that no worker has taken yet."""
        return self._queue.count

    def running(self) -> int:
        """Count the jobs that workers are running."""
        return int(self._redis.zcard(StartedJobRegistry(queue=self._queue).key))

    def workers_alive(self) -> int:
        """Count the workers with a fresh heartbeat."""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in Worker.all_keys(queue=self._queue):
                pipe.hget(key, "last_heartbeat")
            heartbeats = [utcparse(beat.decode()) for beat in pipe.execute() if beat is not None]
        return sum(1 for beat in heartbeats if (now() - beat).total_seconds() < WORKER_STALE_S)

    def drop(self, note_id: str) -> None:
        """Remove a job from the queue; no effect if it is running or gone."""
        job = self._queue.fetch_job(note_id)
        if job is not None:
            self._queue.remove(job)


class NoteWorker(BaseWorker):
    """An RQ worker that runs its jobs one after another in its own process while a thread sends the heartbeats.

    `on_failed(note_id)` is called for each job that RQ no longer retries. Maintenance doesn't run between jobs:
    one process calls `clean_registries` for all workers. RQ's commands to a worker are not received (receiving them
    would cost a connection and a thread per worker); a note is cancelled through its record instead.
    """

    log_result_lifespan = False
    max_connection_wait_time = 5.0
    should_run_maintenance_tasks = False

    def __init__(
        self,
        redis: Redis,
        *,
        orphan_after_s: int,
        on_failed: Callable[[str], None],
        maintenance_interval_s: int = 10,
    ) -> None:
        super().__init__(
            [QUEUE_NAME],
            connection=redis,
            serializer="json",
            worker_ttl=random.randint(*WORKER_TTL_S),
            job_monitoring_interval=MONITOR_S,
            maintenance_interval=maintenance_interval_s,
            log_job_description=False,
        )
        self._orphan_after_s = orphan_after_s
        self._on_failed = on_failed
        self._current: tuple[Job, Execution] | None = None
        self._ended = threading.Event()

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Run jobs until a signal ends the worker after its current job."""
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()
        try:
            return super().work(*args, **kwargs)
        finally:
            self._ended.set()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one job in this process."""
        execution = self.prepare_execution(job)
        self._current = (job, execution)
        try:
            self.perform_job(job, queue, execution)
        finally:
            self._current = None
        self.set_state(WorkerStatus.IDLE)

    def _send_heartbeats(self) -> None:
        while not self._ended.wait(self.job_monitoring_interval):
            current = self._current
            if current is None:
                continue
            try:
                self.maintain_heartbeats(*current)  # redis-py's pool gives this thread its own connection
            except RedisError as error:
                log.warning("heartbeat not sent: %s", error)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Seconds without a heartbeat after which a job counts as orphaned."""
        return int(self.job_monitoring_interval) + self._orphan_after_s

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Handle an exception as RQ does, and stop after a time-out, which may leave a connection half-read."""
        super().handle_exception(job, *exc_info)
        if issubclass(exc_info[0], JobTimeoutException):
            log.warning("worker %s stops: its job %s timed out", self.name, job.id)
            self._stop_requested = True

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        """Retry or fail a job as RQ does; a job without retries left fails its note."""
        given_up = not job.should_retry
        super().handle_job_failure(job, queue, *args, **kwargs)
        if given_up:
            self._on_failed(job.id)

    def subscribe(self) -> None:
        """Do nothing: this worker takes no commands."""

    def set_shutdown_requested_date(self) -> None:
        """Do nothing: RQ calls this in a signal handler, while the main thread may be using the connection."""

    def clean_registries(self) -> None:
        """Maintain the queue for all workers: run orphaned jobs again and fail the notes of failed jobs.

        RQ's own lock lasts 15 minutes if its holder is killed. This lock is never released, but expires just before the
        next run is due, so that only one of the worker programs on one Redis does each run.
        """
        for queue in self.queues:
            lock_ms = int(self.maintenance_interval * 900)
            if not self.connection.set(queue.registry_cleaning_key, self.name, nx=True, px=lock_ms):
                continue
            clean_registries(queue, self._exc_handlers)
            clean_worker_registry(queue)
            queue.intermediate_queue.cleanup(self, queue)
            self._requeue_stuck(queue)
            for note_id in FailedJobRegistry(queue=queue).get_job_ids(cleanup=False):
                self._on_failed(note_id)

    def _requeue_stuck(self, queue: Queue) -> None:
        """Requeue jobs that stayed in RQ's intermediate queue because a worker died before it started them."""
        intermediate = queue.intermediate_queue
        for note_id in intermediate.get_job_ids():
            first_seen = intermediate.get_first_seen(note_id)
            if first_seen is None or (now() - first_seen).total_seconds() < self._orphan_after_s:
                continue
            with self.connection.pipeline() as pipe:
                pipe.lrem(intermediate.key, 1, note_id)
                pipe.delete(intermediate.get_first_seen_key(note_id))
                queue.push_job_id(note_id, pipeline=pipe, at_front=True)
                pipe.execute()
