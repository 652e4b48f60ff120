"""Prometheus figures: HTTP requests by route template, and the time of each step of a search. No ids, no values."""

from collections.abc import Callable, Mapping

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_fastapi_instrumentator import Instrumentator

_STEP_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """One registry an app, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._steps = Histogram(
            "dermnote_retrieval_search_step_seconds",
            "Time of each step of a search",
            ["step"],
            buckets=_STEP_BUCKETS_S,
            registry=self.registry,
        )

    def observe_search(self, timings_ms: Mapping[str, float]) -> None:
        """Count one search's steps."""
        for step, duration_ms in timings_ms.items():
            self._steps.labels(step=step).observe(duration_ms / 1000)

    def watch_items(self, count: Callable[[], int]) -> None:
        """Report the number of items when somebody asks."""
        gauge = Gauge("dermnote_retrieval_items", "Items in the store", registry=self.registry)
        gauge.set_function(count)

    def install(self, app: FastAPI) -> None:
        """Measure every request and answer at /metrics."""
        instrumentator = Instrumentator(excluded_handlers=["/metrics", "/health/.*"], registry=self.registry)
        instrumentator.instrument(app, metric_namespace="dermnote", metric_subsystem="retrieval")
        instrumentator.expose(app, include_in_schema=True, tags=["service"])
