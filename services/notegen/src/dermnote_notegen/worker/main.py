"""The worker program: one parent that keeps the engine, the upkeep and N light workers running.

Settings and priors are loaded once, here; the workers are forked from it and share them. This process talks to the
engine until it has its model, and to nobody after that.
"""

import gc
import logging
import os
import sys

from dermnote_contracts.problems import EngineUnavailable
from dermnote_notegen.queue.redis import PasswordUnreadable
from dermnote_notegen.worker.supervisor import Child, Parent
from dermnote_notegen.worker.task import Runtime, keep_up, runtime, work
from dermnote_notegen.writing.priors import PriorsInvalid

log = logging.getLogger(__name__)
ENGINE = "from dermnote_notegen.engine.server import main; main()"
ENGINE_STOP_S = 10


class EngineCannotStart(Exception):
    """The engine ended by itself before it had a model; it has said why. `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def become_engine() -> None:
    """A fresh interpreter takes this child's place: llama.cpp shares nothing with the workers."""
    os.execv(sys.executable, [sys.executable, "-c", ENGINE])  # noqa: S606


def run(here: Runtime) -> None:
    """Start everything and keep it running until told to stop; then the notes in hand are finished, the engine last.

    Raises EngineCannotStart.
    """
    parent = Parent()
    engine = [Child("engine", become_engine)] if here.settings.starts_engine else []
    workers = [Child(f"worker {number}", work) for number in range(1, here.settings.worker_count + 1)]
    upkeep = [Child("upkeep", keep_up)]
    parent.start(engine)
    wait_for_engine(parent, here)
    if not parent.told_to_stop:
        freeze()
        parent.start([*workers, *upkeep])
        log.info("%d workers take notes", len(workers))
    while not parent.told_to_stop:
        parent.tend()
    log.info("told to stop: the notes in hand are finished first")
    parent.end(workers)
    parent.end(upkeep)
    parent.end(engine, patience_s=ENGINE_STOP_S)
    log.info("stopped")


def wait_for_engine(parent: Parent, here: Runtime) -> None:
    """Until the engine has its model, or this process is told to stop. Raises EngineCannotStart.

    An engine that is killed is started again, now and later; one that ends by itself before it ever had a model never
    will: a wrong setting.
    """
    log.info("waiting for the engine to have its model")
    told = None
    while not parent.told_to_stop and (missing := _missing(here)):
        if missing != told:
            log.info("not yet: %s", missing)
            told = missing
        end = parent.tend().get("engine")
        if end is not None and end.code > 0:
            raise EngineCannotStart(end.code)
    here.engine.close()


def _missing(here: Runtime) -> str | None:
    """Why the engine can't be asked yet; None when it can."""
    try:
        here.engine.info()
    except EngineUnavailable as error:
        return str(error)
    return None


def freeze() -> None:
    """Leave what was loaded out of the garbage collector's rounds: it would touch, and so copy, the shared pages."""
    gc.collect()
    gc.freeze()


def main() -> None:
    """Load what the workers share, then run until told to stop."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel("WARNING")
    try:
        run(runtime())
    except (PasswordUnreadable, PriorsInvalid) as error:
        sys.exit(f"dermnote-notegen-worker: {error}")
    except EngineCannotStart as ended:
        sys.exit(ended.code)
