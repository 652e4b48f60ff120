"""What goes on beside serving: the index that has outgrown exact search gets its lists, built aside."""

import logging
import threading

from dermnote_retrieval.catalogue import Catalogue

log = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0


class Upkeep:
    """One thread that looks after whatever the catalogue serves at the moment."""

    def __init__(self, catalogue: Catalogue, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._catalogue = catalogue
        self._every_s = look_every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; a build that goes on is dropped."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Do what is to be done now."""
        for index in self._catalogue.serving.indexes.values():
            if not index.shrink() and index.outgrown:
                index.build(stop=self._stop)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except Exception:  # the service goes on with what it has
                log.exception("upkeep failed; it is tried again")
