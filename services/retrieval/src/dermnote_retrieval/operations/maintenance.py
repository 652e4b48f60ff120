"""Background maintenance: an index that has outgrown exact search gets inverted lists."""

import logging
import threading

from dermnote_retrieval.ingest.writer import ItemWriter

log = logging.getLogger(__name__)
INTERVAL_S = 1.0
# How long `close` waits for the thread.
CLOSE_TIMEOUT_S = 2.0


class Maintenance:
    """A thread that maintains the indexes of the model served at the moment."""

    def __init__(self, writer: ItemWriter, *, interval_s: float = INTERVAL_S) -> None:
        self._writer = writer
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether the thread still runs, possibly in a build that did not end before `close` returned."""
        return self._thread.is_alive()

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Stop the thread. A build is dropped; one that does not end in `timeout_s` continues without effect."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def run_once(self) -> None:
        """Run the tasks that are due; one caller at a time."""
        with self._running:
            for index in self._writer.served.indexes.values():
                if not index.shrink() and index.outgrown:
                    index.build(stop=self._stop)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.run_once()
            except Exception:  # the service continues with the indexes it has
                log.exception("maintenance failed; it will be retried")
