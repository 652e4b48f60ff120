"""The RQ worker: takes a note id, writes the note, stores it. The engine is another process."""

import functools
import logging
import secrets
import sys
from dataclasses import dataclass

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from dermnote_contracts.problems import DermnoteError, EngineUnavailable, InvalidRequest, Problem
from dermnote_notegen import notes
from dermnote_notegen.engine_client import EngineClient
from dermnote_notegen.priors import PriorsInvalid, load_priors
from dermnote_notegen.queue import make_worker
from dermnote_notegen.settings import Settings
from dermnote_notegen.store import MODEL, NoteStore

log = logging.getLogger(__name__)
MODEL_TTL_S = 30


@dataclass(frozen=True)
class Runtime:
    """What a job needs; made once in the parent, inherited by each forked child."""

    redis: Redis
    store: NoteStore
    engine: EngineClient
    desk: notes.Desk


class WorkerGaveUp(DermnoteError):
    """The last retry ended without a note."""

    code, title = "worker-gave-up", "The note could not be written after several tries"


@functools.cache
def runtime() -> Runtime:
    """The process' own connections, from the environment. Redis being restarted is waited for."""
    settings = Settings()
    redis = Redis.from_url(settings.redis_url, retry=Retry(ExponentialBackoff(cap=2, base=0.1), retries=12))
    engine = EngineClient(
        socket=settings.engine_socket,
        url=settings.engine_url,
        model_name=settings.model if settings.engine_url else "",
        wait_s=settings.engine_wait_s,
    )
    desk = notes.desk(engine, load_priors(settings.priors_dir))
    return Runtime(redis, NoteStore(redis, note_ttl_s=settings.note_ttl_s), engine, desk)


def write_note(note_id: str) -> None:
    """The RQ task. Safe to run any number of times: an ended note is left as it is."""
    here = runtime()
    request = here.store.request(note_id)
    if request is None or not here.store.start(note_id):
        return
    seed = request.options.seed if request.options.seed is not None else secrets.randbelow(2**31)
    try:
        written = notes.write(request, desk=here.desk, seed=seed)
    except InvalidRequest as refused:
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


def main() -> None:
    """Wait for the engine, then work until told to stop."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel("WARNING")
    settings = Settings()
    try:
        here = runtime()
    except PriorsInvalid as error:
        sys.exit(f"dermnote-notegen-worker: {error}")
    try:
        here.engine.wait_ready()
    except EngineUnavailable as error:
        sys.exit(f"dermnote-notegen-worker: {error.detail}; start dermnote-notegen-engine first")
    worker = make_worker(
        here.redis,
        maintenance_interval_s=settings.maintenance_interval_s,
        orphan_after_s=settings.orphan_after_s,
        on_failed=give_up,
        on_heartbeat=report_model,
    )
    worker.work(logging_level="INFO")
