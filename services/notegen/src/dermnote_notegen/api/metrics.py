"""Prometheus figures of the note service as its Redis knows them, so every API process reports the same. No ids."""

from collections.abc import Iterator

from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import Instrumentator

from dermnote_contracts.problems import QueueUnavailable
from dermnote_http.auth import BEARER
from dermnote_notegen.api.jobs import Jobs


def install(app: FastAPI, jobs: Jobs) -> None:
    """Measure every request and answer at /metrics; a registry for each app, so that several live in one process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(jobs))
    instrumentator = Instrumentator(excluded_handlers=["/metrics", "/health/.*"], registry=registry)
    instrumentator.instrument(app, metric_namespace="dermnote", metric_subsystem="notegen")
    instrumentator.expose(app, response_class=PlainTextResponse, dependencies=[Depends(BEARER)])


class _Collector(Collector):
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        try:
            figures = self._jobs.figures()
        except QueueUnavailable:
            yield GaugeMetricFamily("dermnote_notegen_redis_up", "1 while Redis answers", value=0)
            return
        yield GaugeMetricFamily("dermnote_notegen_redis_up", "1 while Redis answers", value=1)
        yield GaugeMetricFamily("dermnote_notegen_workers", "Workers with a fresh heartbeat", value=figures.workers)
        by_state = GaugeMetricFamily(
            "dermnote_notegen_jobs", "Notes that wait, and that are worked on", labels=["state"]
        )
        by_state.add_metric(["waiting"], figures.waiting)
        by_state.add_metric(["running"], figures.running)
        yield by_state
        bytes_ = GaugeMetricFamily(
            "dermnote_notegen_redis_bytes", "Memory of Redis: used, limit (0: none)", labels=["what"]
        )
        bytes_.add_metric(["used"], figures.memory.used)
        bytes_.add_metric(["limit"], figures.memory.limit)
        yield bytes_
        yield _counter("notes_ended", "Notes that have ended, by status", "status", figures.ended)
        yield _counter("texts", "Texts of finished notes, by who wrote them", "source", figures.texts)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask Redis, which may not be there yet."""
        return []


def _counter(name: str, meaning: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"dermnote_notegen_{name}", meaning, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family
