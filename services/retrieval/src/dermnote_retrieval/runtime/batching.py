"""Threads for requests, and dynamic batching: calls that arrive together share an encoder call or index search."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread

from dermnote_contracts.problems import Unavailable

T = TypeVar("T")
log = logging.getLogger(__name__)
In = TypeVar("In")
Out = TypeVar("Out")


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


@dataclass
class _Input(Generic[In, Out]):
    value: In
    answer: "Future[Out]"


class Batcher(Generic[In, Out]):
    """Runs `work` on up to `max_size` inputs at a time, in `threads` threads of its own.

    `work` returns one output per input, in order. If it raises, each input is retried alone, so that an invalid input
    fails only its own caller. Fair: a batch takes one input per caller in turn, so that a large bulk load delays a
    single query by at most the running batch.
    """

    def __init__(
        self, work: Callable[[Sequence[In]], Sequence[Out]], *, max_size: int, threads: int = 1, name: str = "batch"
    ) -> None:
        self._work = work
        self._max_size = max_size
        self._callers: deque[deque[_Input[In, Out]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, values: Sequence[In]) -> "list[Future[Out]]":
        """Queue one caller's inputs; returns one future each. After `close`, the work runs in the calling thread."""
        inputs = deque(_Input[In, Out](value, Future()) for value in values)
        answers = [each.answer for each in inputs]
        with self._changed:
            closed = self._closing
            if inputs and not closed:
                self._callers.append(inputs)
                self._changed.notify()
        if closed:
            self._answer(_claimed(inputs))
        return answers

    def __call__(self, values: Sequence[In]) -> list[Out]:
        """The outputs of `values`; raises what `work` raised for one of them."""
        return [answer.result() for answer in self.submit(values)]

    def waiting(self) -> int:
        """Number of inputs that no batch has taken yet."""
        with self._changed:
            return sum(map(len, self._callers))

    def close(self) -> None:
        """Answer waiting inputs, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> list[_Input[In, Out]]:
        """The next batch, one input per caller in turn; empty once the batcher is closed and nothing waits."""
        batch: list[_Input[In, Out]] = []
        with self._changed:
            while not batch:
                while not self._callers and not self._closing:
                    self._changed.wait()
                if not self._callers:
                    return []
                batch = _claimed(self._take())
            if self._callers:
                self._changed.notify()  # another thread can take the remaining inputs
        return batch

    def _take(self) -> list[_Input[In, Out]]:
        taken: list[_Input[In, Out]] = []
        while self._callers and len(taken) < self._max_size:
            caller = self._callers.popleft()
            taken.append(caller.popleft())
            if caller:
                self._callers.append(caller)
        return taken

    def _answer(self, batch: Sequence[_Input[In, Out]]) -> None:
        try:
            outputs = list(zip(batch, self._work([each.value for each in batch]), strict=True))
        except Exception as error:  # any error belongs to the caller
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            log.exception("a batch of %d failed; retrying each input alone", len(batch))
            for each in batch:
                self._answer([each])
            return
        for each, output in outputs:
            each.answer.set_result(output)


def _claimed(inputs: Iterable[_Input[In, Out]]) -> list[_Input[In, Out]]:
    """The inputs whose callers still wait; their futures can no longer be cancelled."""
    return [each for each in inputs if each.answer.set_running_or_notify_cancel()]
