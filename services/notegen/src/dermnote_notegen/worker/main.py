"""The worker program: supervises the engine, the maintenance process and N light workers.

Settings and priors are loaded once and shared with the workers by fork. Until the engine has loaded its model, this
process polls it; after that it opens no connections.
"""

import functools
import gc
import logging
import os
import sys
import time

from redis.exceptions import RedisError

from dermnote_contracts.problems import EngineUnavailable, WorkerGaveUp
from dermnote_http.app import start_errors
from dermnote_http.logging import configure_logging
from dermnote_notegen.queue.records import MODEL
from dermnote_notegen.queue.rq_queue import NoteWorker
from dermnote_notegen.worker.supervisor import Process, Supervisor
from dermnote_notegen.worker.writer import Runtime, process_runtime

log = logging.getLogger(__name__)
ENGINE = "from dermnote_notegen.engine.server import main; main(supervisor={})"
ENGINE_STOP_S = 10
MODEL_TTL_S = 30
REPORT_S = 5


def exec_engine(supervisor: int) -> None:
    """Replace this process by the engine in a new interpreter, so that llama.cpp shares no memory with the workers.

    `supervisor`: pid of the process that started it.
    """
    os.execv(sys.executable, [sys.executable, "-c", ENGINE.format(supervisor)])  # noqa: S606


def run(runtime: Runtime) -> None:
    """Run all processes until a stop signal; then the workers finish their notes, and the engine stops last."""
    supervisor = Supervisor()
    work_notes, maintain_queue = functools.partial(work, runtime), functools.partial(maintain, runtime)
    engine = [Process("engine", functools.partial(exec_engine, os.getpid()))] if runtime.settings.starts_engine else []
    workers = [Process(f"worker {number}", work_notes) for number in range(1, runtime.settings.worker_count + 1)]
    maintenance = [Process("maintenance", maintain_queue)]
    supervisor.start(engine)
    wait_for_engine(supervisor, runtime)
    if not supervisor.stopping:
        # Keep the garbage collector away from what is loaded: it would touch, and so copy, the shared memory pages.
        gc.collect()
        gc.freeze()
        supervisor.start([*workers, *maintenance])
        log.info("%d workers started", len(workers))
    while not supervisor.stopping:
        supervisor.poll()
    log.info("stopping after the current notes")
    supervisor.stop(workers)
    supervisor.stop(maintenance)
    supervisor.stop(engine, kill_after_s=ENGINE_STOP_S)
    log.info("stopped")


def wait_for_engine(supervisor: Supervisor, runtime: Runtime) -> None:
    """Wait until the engine has its model or a stop signal arrives.

    An engine that is killed by a signal is restarted. One that exits with an error before it has a model has logged an
    invalid setting and would exit again, so the program exits with the same code.
    """
    log.info("waiting for the engine to load its model")
    logged = None
    while not supervisor.stopping:
        try:
            runtime.engine.info()
        except EngineUnavailable as error:
            if str(error) != logged:
                logged = str(error)
                log.info("engine not ready: %s", logged)
        else:
            break
        exit_code = supervisor.poll().get("engine")
        if exit_code is not None and exit_code > 0:
            sys.exit(exit_code)
    runtime.engine.close()


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


def main() -> None:
    """Load what the workers share, then run until a stop signal."""
    with start_errors("dermnote-notegen-worker"):
        runtime = process_runtime()
    configure_logging(runtime.settings.log_format)
    run(runtime)
