"""Durations: of the steps of one search, and of shared work (encoder calls, index searches, commits) as histograms."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

from prometheus_client import Histogram

In = TypeVar("In")
Out = TypeVar("Out")
Step = Literal["decode", "encode", "filter", "search", "fetch"]
Kind = Literal["encode-images", "encode-texts", "search", "store"]
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class StepTimer:
    """Durations of the steps of one request in milliseconds, in the order in which they ended."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.ms: dict[str, float] = {}

    @contextmanager
    def step(self, name: Step) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.end(name, since=start)

    def end(self, name: Step, *, since: float) -> None:
        """Record a step that began at `since` (time.perf_counter)."""
        self.ms[name] = _ms_since(since)

    @property
    def total_ms(self) -> float:
        return _ms_since(self._start)


class WorkMetrics:
    """Histograms of one service's shared work, in no registry until an app registers them. Failures are not counted."""

    def __init__(self) -> None:
        self.seconds = Histogram(
            "dermnote_retrieval_work_seconds",
            "Time of one encoder call, index search or commit",
            ["work"],
            buckets=_SECONDS,
            registry=None,
        )
        self.size = Histogram(
            "dermnote_retrieval_work_size",
            "Images, texts, queries or items per call",
            ["work"],
            buckets=_SIZES,
            registry=None,
        )

    @contextmanager
    def measure(self, kind: Kind, *, size: int) -> Iterator[None]:
        """Measure the block."""
        started = time.perf_counter()
        yield
        self.seconds.labels(work=kind).observe(time.perf_counter() - started)
        self.size.labels(work=kind).observe(size)

    def measured(self, kind: Kind, work: Callable[[Sequence[In]], Out]) -> Callable[[Sequence[In]], Out]:
        """The same function, measured at each call."""

        def call(values: Sequence[In]) -> Out:
            with self.measure(kind, size=len(values)):
                return work(values)

        return call


def _ms_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 3)
