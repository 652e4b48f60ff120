"""What is done together, how much of it and how long it takes: encoder calls, index searches, commits.

Prometheus histograms that belong to no registry until an app's metrics take them in.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

from prometheus_client import Histogram

In = TypeVar("In")
Out = TypeVar("Out")
Kind = Literal["encode-images", "encode-texts", "search", "store"]
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Work:
    """One service's. What fails is not counted."""

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
            "Images, texts, queries or items that one of them was for",
            ["work"],
            buckets=_SIZES,
            registry=None,
        )

    @contextmanager
    def one(self, kind: Kind, *, size: int) -> Iterator[None]:
        """Measure what is done inside."""
        begun = time.perf_counter()
        yield
        self.seconds.labels(work=kind).observe(time.perf_counter() - begun)
        self.size.labels(work=kind).observe(size)

    def timed(self, kind: Kind, work: Callable[[Sequence[In]], Out]) -> Callable[[Sequence[In]], Out]:
        """The same function, measured."""

        def measured(values: Sequence[In]) -> Out:
            with self.one(kind, size=len(values)):
                return work(values)

        return measured
