"""Prometheus metrics of the note service, read from Redis, so that every API process reports the same. No ids."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dermnote_contracts.problems import QueueUnavailable
from dermnote_notegen.api.jobs import Jobs


class JobsCollector(Collector):
    """Queue length, workers, ended notes and Redis' memory, at each scrape."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        try:
            statistics = self._jobs.statistics()
        except QueueUnavailable:
            yield GaugeMetricFamily("dermnote_notegen_redis_up", "1 while Redis responds", value=0)
            return
        yield GaugeMetricFamily("dermnote_notegen_redis_up", "1 while Redis responds", value=1)
        yield GaugeMetricFamily("dermnote_notegen_workers", "Workers with a fresh heartbeat", value=statistics.workers)
        by_state = GaugeMetricFamily("dermnote_notegen_jobs", "Notes waiting and running", labels=["state"])
        by_state.add_metric(["waiting"], statistics.waiting)
        by_state.add_metric(["running"], statistics.running)
        yield by_state
        bytes_ = GaugeMetricFamily(
            "dermnote_notegen_redis_bytes", "Memory of Redis: used, limit (0: none)", labels=["what"]
        )
        bytes_.add_metric(["used"], statistics.memory.used)
        bytes_.add_metric(["limit"], statistics.memory.limit)
        yield bytes_
        yield _counter("notes_ended", "Ended notes by status", "status", statistics.ended)
        yield _counter("texts", "Texts of finished notes by source", "source", statistics.texts)

    def describe(self) -> list[Metric]:
        """Empty: registration must not need Redis, which may not be up yet."""
        return []


def _counter(name: str, meaning: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"dermnote_notegen_{name}", meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
