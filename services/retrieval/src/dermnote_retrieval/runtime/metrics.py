"""Prometheus metrics of the retrieval service: search steps, calls shared by requests, and the state of the index.

Labels hold no item ids.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dermnote_contracts.retrieval import IndexInfo, RouteInfo

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
    """Histograms of encoder calls, index searches and commits that succeed. An app registers them (Metrics.watch)."""

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
        begun = time.perf_counter()
        yield
        self.seconds.labels(work=kind).observe(time.perf_counter() - begun)
        self.size.labels(work=kind).observe(size)

    def measured(self, kind: Kind, work: Callable[[Sequence[In]], Out]) -> Callable[[Sequence[In]], Out]:
        """A function that calls `work` and measures each call."""

        def call(values: Sequence[In]) -> Out:
            with self.measure(kind, size=len(values)):
                return work(values)

        return call


def _ms_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 3)


_STEP_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The service's own metrics, in the app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._steps = Histogram(
            "dermnote_retrieval_search_step_seconds",
            "Time of each step of a search",
            ["step"],
            buckets=_STEP_BUCKETS_S,
            registry=self.registry,
        )
        self._of_step: dict[str, Histogram] = {step: self._steps.labels(step=step) for step in get_args(Step)}

    def observe_search(self, timings_ms: Mapping[str, float]) -> None:
        """Record the time of each step of a search."""
        for step, duration_ms in timings_ms.items():
            self._of_step[step].observe(duration_ms / 1000)

    def watch(self, index_info: Callable[[], IndexInfo], work: WorkMetrics) -> None:
        """Register a service's work metrics, and the state of its index, which is read at each scrape."""
        self.registry.register(_IndexCollector(index_info))
        self.registry.register(work.seconds)
        self.registry.register(work.size)


class _IndexCollector(Collector):
    """GET /index as gauges."""

    def __init__(self, index_info: Callable[[], IndexInfo]) -> None:
        self._index_info = index_info

    def collect(self) -> Iterator[GaugeMetricFamily]:
        info = self._index_info()
        yield _gauge("items", "Items in the store", info.items)
        yield _gauge("checkpoint_behind", "Always 0: the index is no longer stored on disk", info.checkpoint_behind)
        if info.store:
            yield _gauge("store_bytes", "Bytes of the store's files", info.store.bytes)
            yield _gauge("disk_free_bytes", "Bytes that are free on the store's disk", info.store.free_bytes)
        if info.snapshots:
            yield _gauge("snapshots", "Number of snapshots", info.snapshots.count)
            yield _gauge("snapshots_bytes", "Bytes of all snapshots", info.snapshots.bytes)
            if newest := info.snapshots.newest_at:
                yield _gauge("snapshot_newest_seconds", "Unix time of the newest snapshot", newest.timestamp())
        if info.waiting:
            yield _gauges("waiting", "Length of each queue", "what", info.waiting.model_dump().items())
        for name, meaning, value_of in _ROUTE_GAUGES:
            values = ((route, value_of(one)) for route, one in info.routes.items())
            yield _gauges(name, meaning, "route", ((route, value) for route, value in values if value is not None))


_ROUTE_GAUGES: tuple[tuple[str, str, Callable[[RouteInfo], float | None]], ...] = (
    ("vectors", "Vectors of a route", lambda one: one.vectors),
    ("index_memory_bytes", "Memory of a route's index", lambda one: one.memory_mib << 20),
    (
        "index_recall",
        "Recall of a route's inverted lists; absent while its search is exact",
        lambda one: None if one.recall is None else one.recall.value,
    ),
    ("index_building", "1 while a route's lists are built", lambda one: one.building),
)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dermnote_retrieval_{name}", meaning, value=value)


def _gauges(name: str, meaning: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"dermnote_retrieval_{name}", meaning, labels=[label])
    for of, value in values:
        family.add_metric([of], value)
    return family
