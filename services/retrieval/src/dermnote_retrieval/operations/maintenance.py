"""What goes on beside serving: an index that has outgrown exact search gets its lists, and checkpoints are written."""

import logging
import threading
import time

from dermnote_retrieval.ingest.writer import Catalogue
from dermnote_retrieval.operations.checkpoint import Checkpoint

log = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
# Writes (a chunk of a bulk load is one) that a start after a crash replays, at most.
WRITES_A_CHECKPOINT = 2000
# After a checkpoint that found no room.
TRY_AGAIN_S = 60.0
# For the thread when the service closes.
PATIENCE_S = 2.0


class Upkeep:
    """One thread that looks after whatever the catalogue serves at the moment."""

    def __init__(self, catalogue: Catalogue, checkpoint: Checkpoint, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._catalogue = catalogue
        self._checkpoint = checkpoint
        self._every_s = look_every_s
        self._stop = threading.Event()
        self._looking = threading.Lock()
        self._next_try = 0.0
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether the thread still goes on, as after a close that a build in FAISS outlasted."""
        return self._thread.is_alive()

    def close(self, *, patience_s: float = PATIENCE_S) -> None:
        """End the thread. A build is dropped: one that does not end in `patience_s` goes on in memory, for nobody."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def look(self) -> None:
        """Do what is to be done now; one caller at a time."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        for index in self._catalogue.serving.indexes.values():
            if not index.shrink() and index.outgrown:
                index.build(stop=self._stop)
        if self._stop.is_set() or time.monotonic() < self._next_try:
            return
        if self._checkpoint.behind(self._catalogue.serving.model_id) >= WRITES_A_CHECKPOINT:
            with self._catalogue.items.database.write_lock:
                serving = self._catalogue.serving
                if not self._checkpoint.save(serving.indexes, model_id=serving.model_id):
                    self._next_try = time.monotonic() + TRY_AGAIN_S

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except Exception:  # the service goes on with what it has
                log.exception("upkeep failed; it is tried again")
