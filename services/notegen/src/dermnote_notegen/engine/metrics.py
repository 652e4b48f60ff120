"""The engine's figures for Prometheus: tokens, batches, cache, waiting times. No request's content."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dermnote_notegen.engine.scheduler import Scheduler
from dermnote_notegen.engine.sequence import End, Job

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """One engine's metrics, in a registry of its own."""

    def __init__(self, *, slots: int, cells: int) -> None:
        self.registry = CollectorRegistry()
        self._tokens = Counter(
            "dermnote_engine_tokens_total",
            "Tokens by kind: prompt, cached (of prompt), forced, sampled, decoded",
            ["kind"],
            registry=self.registry,
        )
        self._requests = Counter(
            "dermnote_engine_requests_total", "Requests ended, by how", ["end"], registry=self.registry
        )
        self._batch = Histogram(
            "dermnote_engine_batch_tokens", "Tokens decoded in one step", buckets=ROWS, registry=self.registry
        )
        self._queued = Histogram(
            "dermnote_engine_queue_seconds", "From arrival to admission", buckets=SECONDS, registry=self.registry
        )
        self._first = Histogram(
            "dermnote_engine_first_token_seconds",
            "From arrival to the first token",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._preempted = Counter(
            "dermnote_engine_preemptions_total", "Sequences put back because the cache was full", registry=self.registry
        )
        self._rebuilt = Counter(
            "dermnote_engine_rebuilds_total", "Times that the context was rebuilt", registry=self.registry
        )
        self._state = Gauge(
            "dermnote_engine_state",
            "running, waiting (requests); slots; cells, cells_held; lanes_used",
            ["what"],
            registry=self.registry,
        )
        self._state.labels("slots").set(slots)
        self._state.labels("cells").set(cells)
        self._seen = (0, 0, 0, 0)

    def observe(self, scheduler: Scheduler) -> None:
        """After a step."""
        count = scheduler.count
        steps, rows, preemptions, rebuilds = self._seen
        self._seen = (count.steps, count.rows, count.preemptions, count.rebuilds)
        if count.steps > steps:
            self._batch.observe(count.rows - rows)
            self._tokens.labels("decoded").inc(count.rows - rows)
        self._preempted.inc(count.preemptions - preemptions)
        self._rebuilt.inc(count.rebuilds - rebuilds)
        state = {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "cells_held": scheduler.tree.held,
            "lanes_used": scheduler.tree.lanes_used,
        }
        for what, value in state.items():
            self._state.labels(what).set(value)

    def ended(self, job: Job, end: End) -> None:
        """A request's own figures, when it ends."""
        written = job.program.written
        self._requests.labels(end.name.lower()).inc()
        if job.admitted:
            self._queued.observe(job.admitted - job.arrived)
            self._tokens.labels("prompt").inc(len(job.prompt))
            self._tokens.labels("cached").inc(job.cached)
        if job.first_token:
            self._first.observe(job.first_token - job.arrived)
        self._tokens.labels("forced").inc(written.forced)
        self._tokens.labels("sampled").inc(written.sampled)
