"""The threads that run the blocking work of requests, with a limit on waiting requests."""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from dermnote_contracts.problems import Unavailable

T = TypeVar("T")


class WorkerPool:
    """Runs functions in threads and rejects requests with 503 when too many wait. Bulk loads have their own threads.

    Endpoints for operators (health, index information, metrics) do not use it, so that they answer under full load.
    """

    def __init__(self, *, threads: int, bulk_threads: int, max_waiting: int) -> None:
        self._requests = CapacityLimiter(threads)
        self._bulk = CapacityLimiter(bulk_threads)
        self._max_waiting = max_waiting

    def waiting(self) -> int:
        """Number of requests waiting for a thread."""
        return self._requests.statistics().tasks_waiting

    def waiting_loads(self) -> int:
        """Number of bulk loads waiting for a thread."""
        return self._bulk.statistics().tasks_waiting

    async def run(self, work: Callable[[], T]) -> T:
        """Run one request's work."""
        return await self._run(work, self._requests)

    async def run_bulk(self, work: Callable[[], T]) -> T:
        """Run a bulk load, which may take as long as its stream."""
        return await self._run(work, self._bulk)

    async def _run(self, work: Callable[[], T], limiter: CapacityLimiter) -> T:
        if limiter.statistics().tasks_waiting >= self._max_waiting:
            raise Unavailable("too many requests are waiting", retry_after_s=1)
        return await to_thread.run_sync(work, limiter=limiter)
