"""Calls that come in while one is under way go together into the next: one encoder call, one index search for many.

Fair: a batch takes one input of each caller in turn, so that a bulk load of many never keeps a single query waiting for
more than the batch that runs.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass
class _Input(Generic[In, Out]):
    value: In
    answer: "Future[Out]"


class Batcher(Generic[In, Out]):
    """Runs `work` on up to `most` inputs at a time, in `threads` threads of its own.

    `work` gives one output an input, in their order. Where it raises, each input is tried alone, so that what is wrong
    with one is told to its own caller only.
    """

    def __init__(
        self, work: Callable[[Sequence[In]], Sequence[Out]], *, most: int, threads: int = 1, name: str = "batch"
    ) -> None:
        self._work = work
        self._most = most
        self._callers: deque[deque[_Input[In, Out]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, values: Sequence[In]) -> "list[Future[Out]]":
        """One answer an input; the inputs wait together as one caller's. Once it is closed the caller works itself."""
        inputs = deque(_Input[In, Out](value, Future()) for value in values)
        answers = [one.answer for one in inputs]
        with self._changed:
            closed = self._closing
            if inputs and not closed:
                self._callers.append(inputs)
                self._changed.notify()
        if closed:
            self._answer(_wanted(inputs))
        return answers

    def __call__(self, values: Sequence[In]) -> list[Out]:
        """The outputs of `values`; raises what `work` raised for one of them."""
        return [answer.result() for answer in self.submit(values)]

    def waiting(self) -> int:
        """Inputs that no batch has taken yet."""
        with self._changed:
            return sum(map(len, self._callers))

    def close(self) -> None:
        """Answer what waits, then end the threads. Who still calls works in his own thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> list[_Input[In, Out]]:
        """What goes together next, one input of each caller in turn; nothing once it is closed and all is taken."""
        batch: list[_Input[In, Out]] = []
        with self._changed:
            while not batch:
                while not self._callers and not self._closing:
                    self._changed.wait()
                if not self._callers:
                    return []
                batch = _wanted(self._taken())
            if self._callers:
                self._changed.notify()  # another thread can take those
        return batch

    def _taken(self) -> list[_Input[In, Out]]:
        taken: list[_Input[In, Out]] = []
        while self._callers and len(taken) < self._most:
            caller = self._callers.popleft()
            taken.append(caller.popleft())
            if caller:
                self._callers.append(caller)
        return taken

    def _answer(self, batch: Sequence[_Input[In, Out]]) -> None:
        try:
            answered = list(zip(batch, self._work([one.value for one in batch]), strict=True))
        except Exception as wrong:  # whatever it is, its caller is told
            if len(batch) == 1:
                batch[0].answer.set_exception(wrong)
                return
            log.exception("a batch of %d failed; each goes alone", len(batch))
            for one in batch:
                self._answer([one])
            return
        for one, output in answered:
            one.answer.set_result(output)


def _wanted(inputs: Iterable[_Input[In, Out]]) -> list[_Input[In, Out]]:
    """Those whose callers still wait; from here on they cannot turn away."""
    return [one for one in inputs if one.answer.set_running_or_notify_cancel()]
