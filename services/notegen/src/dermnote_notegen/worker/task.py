"""What a worker does: take a note id, write the note, store it; and the upkeep that one process does for all workers.

The engine is another process. Knows nothing of the other workers: the pool starts them.
"""

import functools
import logging
import secrets
import time
from dataclasses import dataclass

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from dermnote_contracts.problems import DermnoteError, EngineRefused, EngineUnavailable, InvalidRequest, Problem
from dermnote_notegen.queue.records import MODEL, NoteStore
from dermnote_notegen.queue.redis import connect
from dermnote_notegen.queue.rq_queue import NoteWorker, make_worker
from dermnote_notegen.settings import Settings
from dermnote_notegen.worker import writer
from dermnote_notegen.worker.engine_client import EngineClient, EngineCrashed
from dermnote_notegen.writing.priors import load_priors

log = logging.getLogger(__name__)
MODEL_TTL_S = 30
REPORT_S = 5
REDIS_TIMEOUT_S = 30  # longer than a worker blocks for a job


@dataclass(frozen=True)
class Runtime:
    """What a job needs; made once in the pool's parent, inherited by each worker, which opens its own connections."""

    settings: Settings
    redis: Redis
    store: NoteStore
    engine: EngineClient
    desk: writer.Desk


class WorkerGaveUp(DermnoteError):
    """The last retry ended without a note."""

    code, title = "worker-gave-up", "The note could not be written after several tries"


@functools.cache
def runtime() -> Runtime:
    """Made from the environment; raises PasswordUnreadable, PriorsInvalid. Redis being restarted is waited for."""
    settings = Settings()
    retry = Retry(ExponentialBackoff(cap=2, base=0.1), retries=12)
    redis = connect(settings, retry=retry, socket_timeout=REDIS_TIMEOUT_S)
    engine = EngineClient(
        socket=settings.engine_socket,
        url=settings.engine_url,
        model_name=settings.model if settings.engine_url else "",
        wait_s=settings.engine_wait_s,
    )
    desk = writer.desk(engine, load_priors(settings.priors_dir))
    return Runtime(settings, redis, NoteStore(redis, note_ttl_s=settings.note_ttl_s), engine, desk)


def write_note(note_id: str) -> None:
    """The RQ task. Safe to run any number of times: an ended note is left as it is.

    What will never be written fails at once with its reason; anything else that is raised has RQ run the job again.
    """
    here = runtime()
    request = here.store.request(note_id)
    if request is None or not here.store.start(note_id):
        return
    seed = request.options.seed if request.options.seed is not None else secrets.randbelow(2**31)
    try:
        written = writer.write(request, desk=here.desk, seed=seed)
    except (InvalidRequest, EngineRefused, EngineCrashed) as refused:
        here.store.fail(note_id, refused.problem())
    else:
        here.store.finish(note_id, written)


def give_up(note_id: str) -> None:
    """End a note whose job RQ has given up; harmless when it has ended."""
    problem: Problem = WorkerGaveUp().problem()
    runtime().store.fail(note_id, problem)


def report_model() -> None:
    """Tell the API which model is loaded; silence for 30 s means none is."""
    here = runtime()
    try:
        info = here.engine.info()
    except EngineUnavailable:
        log.warning("the engine does not answer")
        return
    here.redis.set(MODEL, info.model_dump_json(), ex=MODEL_TTL_S)


def work() -> None:
    """Take notes from the queue until told to stop, or until Redis stays away."""
    try:
        _note_worker().work(logging_level="WARNING")
    except RedisError as error:
        log.warning("Redis does not answer: %s", error)


def keep_up() -> None:
    """For all workers of the pool: tell the API which model is loaded, and look for jobs whose worker died."""
    settings = runtime().settings
    pause_s = min(REPORT_S, settings.maintenance_interval_s)
    upkeep_due = time.monotonic()
    while True:
        try:
            report_model()
            if time.monotonic() >= upkeep_due:
                _note_worker().clean_registries()
                upkeep_due = time.monotonic() + settings.maintenance_interval_s
        except RedisError as error:
            log.warning("Redis does not answer: %s", error)
        time.sleep(pause_s)


def _note_worker() -> NoteWorker:
    here = runtime()
    return make_worker(
        here.redis,
        maintenance_interval_s=here.settings.maintenance_interval_s,
        orphan_after_s=here.settings.orphan_after_s,
        on_failed=give_up,
    )
