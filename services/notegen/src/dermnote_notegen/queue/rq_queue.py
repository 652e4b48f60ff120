"""The one door to RQ: enqueue by name and JSON, a light worker, and the upkeep that finds orphans fast.

RQ jobs carry an opaque note id and nothing of the patient. Its own defaults would fail an orphan (no Retry), or find it
after ten minutes; here a dead worker's job runs again within a minute.
"""

import logging
import random
import threading
import time
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
WORKER_TTL_S = (25, 30)  # RQ blocks for 15 s less than this: 20 workers must not all come back at the same moment
MONITOR_S = 5
FRESH_S = 1.0


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
                retry=Retry(max=self._retries, enqueue_at_front=True),
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

    def running(self) -> int:
        """Jobs that a worker has in hand."""
        return int(self._redis.zcard(StartedJobRegistry(queue=self._queue).key))

    def workers_alive(self) -> int:
        """Workers whose last heartbeat is fresh."""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in Worker.all_keys(queue=self._queue):
                pipe.hget(key, "last_heartbeat")
            heartbeats = [utcparse(beat.decode()) for beat in pipe.execute() if beat is not None]
        return sum(1 for beat in heartbeats if (now() - beat).total_seconds() < WORKER_STALE_S)

    def drop(self, note_id: str) -> None:
        """Forget a job that need not run any more; harmless when it is gone or running."""
        job = self._queue.fetch_job(note_id)
        if job is not None:
            self._queue.remove(job)


class NoteWorker(BaseWorker):
    """An RQ worker that runs its jobs in its own process, one after the other, while a thread keeps the heartbeats.

    `on_failed(note_id)` is called for each job that RQ has given up. Upkeep is not done between jobs: one process of
    the pool calls `clean_registries` for all workers. A job can't be stopped from outside, so RQ's commands to a worker
    (publish and subscribe, with a thread and a connection for each) are left out; cancelling is done in the record.
    """

    log_result_lifespan = False
    max_connection_wait_time = 5.0

    def __init__(
        self,
        *args: Any,
        orphan_after_s: int,
        on_failed: Callable[[str], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._orphan_after_s = orphan_after_s
        self._on_failed = on_failed
        self._in_hand: tuple[Job, Execution] | None = None
        self._ended = threading.Event()
        self._suspension_looked_at = 0.0

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """RQ's loop, with a thread beside it that keeps the heartbeats of the job in hand."""
        threading.Thread(target=self._keep_heartbeats, name="heartbeat", daemon=True).start()
        try:
            return super().work(*args, **kwargs)
        finally:
            self._ended.set()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one job here."""
        execution = self.prepare_execution(job)
        self._in_hand = (job, execution)
        try:
            self.perform_job(job, queue, execution)
        finally:
            self._in_hand = None
        self.set_state(WorkerStatus.IDLE)

    def _keep_heartbeats(self) -> None:
        while not self._ended.wait(self.job_monitoring_interval):
            in_hand = self._in_hand
            if in_hand is None:
                continue
            try:
                self.maintain_heartbeats(*in_hand)  # the pool gives this thread a connection of its own
            except RedisError as error:
                log.warning("no heartbeat: %s", error)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Seconds without a heartbeat after which a job counts as abandoned."""
        return int(self.job_monitoring_interval) + self._orphan_after_s

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """RQ's handling. A job that was broken off by its time-out may leave connections half read: start anew."""
        super().handle_exception(job, *exc_info)
        if issubclass(exc_info[0], JobTimeoutException):
            log.warning("worker %s ends: its job %s ran out of time", self.name, job.id)
            self._stop_requested = True

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **kwargs: Any) -> None:
        """RQ's handling (retry or fail); a job that failed for good ends its note."""
        given_up = not job.should_retry
        super().handle_job_failure(job, queue, *args, **kwargs)
        if given_up:
            self._on_failed(job.id)

    # What follows makes a job cheap.

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's heartbeat, which it sends five times a job; one of a moment ago is enough."""
        beat = self.last_heartbeat
        if pipeline is not None or beat is None or (now() - beat).total_seconds() > FRESH_S:
            super().heartbeat(timeout, pipeline)

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Tell Redis a state that has changed."""
        if pipeline is not None or state != self.get_state():
            super().set_state(state, pipeline)

    def check_for_suspension(self, burst: bool) -> None:
        """`rq suspend` is obeyed within a second."""
        if time.monotonic() - self._suspension_looked_at > FRESH_S:
            super().check_for_suspension(burst)
            self._suspension_looked_at = time.monotonic()

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:  # noqa: ARG002
        """The job's hash is deleted next: no heartbeat in it."""
        job.ended_at = now()

    def handle_job_success(
        self,
        job: Job,
        queue: Queue,  # noqa: ARG002
        started_job_registry: StartedJobRegistry,  # noqa: ARG002
        execution: Execution,
    ) -> None:
        """Forget the job: a note's job has no result, no dependents and no rate limit."""
        with self.connection.pipeline() as pipe:
            self.increment_successful_job_count(pipe)
            self.cleanup_execution(job, pipeline=pipe, execution=execution)
            pipe.delete(job.key)
            pipe.execute()

    def subscribe(self) -> None:
        """No commands to this worker."""

    def set_shutdown_requested_date(self) -> None:
        """Nothing: RQ calls this in a signal handler, and the main thread may be talking to Redis."""

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Never: the pool has one process for it."""
        return False

    # Upkeep, by one process for all workers.

    def clean_registries(self) -> None:
        """RQ's maintenance; then jobs stuck between queue and worker run again, and failed jobs end their notes.

        RQ's lock would stay for 15 minutes where its holder is killed. Ours expires just before the next turn, and
        nobody releases it: several pools on one Redis share the turns.
        """
        for queue in self.queues:
            if not self.connection.set(queue.registry_cleaning_key, self.name, nx=True, px=self._turn_ms):
                continue
            clean_registries(queue, self._exc_handlers)
            clean_worker_registry(queue)
            queue.intermediate_queue.cleanup(self, queue)
            self._requeue_stuck(queue)
            for note_id in FailedJobRegistry(queue=queue).get_job_ids(cleanup=False):
                self._on_failed(note_id)

    @property
    def _turn_ms(self) -> int:
        return int(self.maintenance_interval * 900)

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
                queue.push_job_id(note_id, pipeline=pipe, at_front=True)
                pipe.execute()


def make_worker(
    redis: Redis,
    *,
    orphan_after_s: int,
    on_failed: Callable[[str], None],
    maintenance_interval_s: int = 10,
) -> NoteWorker:
    """A worker on the note queue; its `work()` blocks until a signal ends it after the note in hand."""
    return NoteWorker(
        [QUEUE_NAME],
        connection=redis,
        serializer="json",
        worker_ttl=random.randint(*WORKER_TTL_S),
        job_monitoring_interval=MONITOR_S,
        maintenance_interval=maintenance_interval_s,
        log_job_description=False,
        orphan_after_s=orphan_after_s,
        on_failed=on_failed,
    )
