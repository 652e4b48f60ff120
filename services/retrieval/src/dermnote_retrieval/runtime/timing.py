"""How long each step of a request took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Step = Literal["decode", "encode", "filter", "search", "fetch"]


class Steps:
    """Named durations in milliseconds, in the order in which they ended."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.ms: dict[str, float] = {}

    @contextmanager
    def step(self, name: Step) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ended(name, since=start)

    def ended(self, name: Step, *, since: float) -> None:
        """A step that began at `since` (time.perf_counter) is over."""
        self.ms[name] = _ms_since(since)

    @property
    def total_ms(self) -> float:
        return _ms_since(self._start)


def _ms_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 3)
