"""The processes' work: a worker writes and stores notes; one maintenance process serves all workers."""

import functools
import logging
import secrets
import time
from dataclasses import dataclass

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from dermnote_contracts.problems import EngineCrashed, EngineRefused, EngineUnavailable, InvalidRequest, WorkerGaveUp
from dermnote_http.logging import request_id_scope
from dermnote_http.settings import read_settings
from dermnote_notegen.queue.records import MODEL, NoteStore
from dermnote_notegen.queue.redis import connect
from dermnote_notegen.queue.rq_queue import NoteWorker
from dermnote_notegen.settings import Settings
from dermnote_notegen.worker.engine_client import EngineClient
from dermnote_notegen.worker.writer import NoteWriter
from dermnote_notegen.writing.priors import load_priors

log = logging.getLogger(__name__)
MODEL_TTL_S = 30
REPORT_S = 5
REDIS_TIMEOUT_S = 30  # longer than a worker blocks for a job


@dataclass(frozen=True)
class Runtime:
    """Shared by all jobs: built once in the supervisor, inherited by each worker, which opens its own connections."""

    settings: Settings
    redis: Redis
    store: NoteStore
    engine: EngineClient
    writer: NoteWriter

    @classmethod
    def from_settings(cls, settings: Settings) -> "Runtime":
        """Build everything; connects to nothing yet. Commands are retried while Redis restarts.

        Raises PasswordUnreadable, PriorsInvalid.
        """
        retry = Retry(ExponentialBackoff(cap=2, base=0.1), retries=12)
        redis = connect(settings, retry=retry, socket_timeout=REDIS_TIMEOUT_S)
        engine = EngineClient(
            socket=settings.engine_socket,
            url=settings.engine_url,
            model_name=settings.model if settings.engine_url else "",
            wait_s=settings.engine_wait_s,
        )
        writer = NoteWriter(engine, load_priors(settings.priors_dir))
        return cls(settings, redis, NoteStore(redis, note_ttl_s=settings.note_ttl_s), engine, writer)


@functools.cache
def process_runtime() -> Runtime:
    """This process's runtime, from the environment. Only for `write_note`, which RQ calls by name with a note id."""
    return Runtime.from_settings(read_settings(Settings))


def write_note(note_id: str) -> None:
    """The RQ task. Idempotent: an ended note is left as it is.

    Errors that a retry can't cure fail the note with their reason; any other exception makes RQ retry the job.
    """
    runtime = process_runtime()
    started = runtime.store.start(note_id)
    if started is None:
        return
    request = started.request
    seed = request.options.seed if request.options.seed is not None else secrets.randbelow(2**31)
    with request_id_scope(started.request_id):
        try:
            notes = runtime.writer.write(request, seed=seed)
        except (InvalidRequest, EngineRefused, EngineCrashed) as error:
            runtime.store.fail(note_id, error.problem())
            log.info("note %s failed: %s", note_id, error.code)
        else:
            runtime.store.finish(note_id, notes)
            log.info("note %s finished: %s", note_id, ", ".join(note.provenance.source for note in notes))


def work(runtime: Runtime) -> None:
    """Write notes from the queue until a stop signal, or until Redis stays unavailable."""
    try:
        _note_worker(runtime).work(logging_level="WARNING")
    except RedisError as error:
        log.warning("Redis does not answer: %s", error)


def maintain(runtime: Runtime) -> None:
    """For all workers: report the loaded model and recover the jobs of dead workers."""
    interval_s = runtime.settings.maintenance_interval_s
    next_cleaning = time.monotonic()
    while True:
        try:
            _report_model(runtime)
            if time.monotonic() >= next_cleaning:
                _note_worker(runtime).clean_registries()
                next_cleaning = time.monotonic() + interval_s
        except RedisError as error:
            log.warning("Redis does not answer: %s", error)
        time.sleep(min(REPORT_S, interval_s))


def _report_model(runtime: Runtime) -> None:
    """Store the loaded model for the API; it expires after 30 s without a report."""
    try:
        model = runtime.engine.info()
    except EngineUnavailable:
        log.warning("the engine does not answer")
    else:
        runtime.redis.set(MODEL, model.model_dump_json(), ex=MODEL_TTL_S)


def _note_worker(runtime: Runtime) -> NoteWorker:
    def give_up(note_id: str) -> None:
        runtime.store.fail(note_id, WorkerGaveUp().problem())

    return NoteWorker(
        runtime.redis,
        maintenance_interval_s=runtime.settings.maintenance_interval_s,
        orphan_after_s=runtime.settings.orphan_after_s,
        on_failed=give_up,
    )
