"""The engine's Prometheus metrics: tokens, batches, cache and waiting times. They contain no text of requests."""

from dataclasses import replace

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dermnote_notegen.engine.scheduler import Scheduler, SchedulerStats
from dermnote_notegen.engine.sequence import Outcome, Sequence

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EngineMetrics:
    """The metrics of one engine, in its own registry."""

    def __init__(self, *, slots: int, cells: int) -> None:
        self.registry = registry = CollectorRegistry()
        self._tokens = Counter(
            "dermnote_engine_tokens_total",
            "Tokens by kind: prompt, cached (of prompt), forced, sampled, decoded",
            ["kind"],
            registry=registry,
        )
        self._requests = Counter(
            "dermnote_engine_requests_total", "Ended requests by outcome", ["end"], registry=registry
        )
        self._batch_tokens = Histogram(
            "dermnote_engine_batch_tokens", "Tokens decoded per step", buckets=TOKENS, registry=registry
        )
        self._queue_s = Histogram(
            "dermnote_engine_queue_seconds", "From arrival to admission", buckets=SECONDS, registry=registry
        )
        self._first_token_s = Histogram(
            "dermnote_engine_first_token_seconds",
            "From arrival to the first token",
            buckets=SECONDS,
            registry=registry,
        )
        self._preemptions = Counter(
            "dermnote_engine_preemptions_total", "Sequences preempted because the cache was full", registry=registry
        )
        self._rebuilds = Counter("dermnote_engine_rebuilds_total", "Rebuilds of the context", registry=registry)
        self._state = Gauge(
            "dermnote_engine_state",
            "running, waiting (requests); slots; cells, cells_held; lanes_used (sequences)",
            ["what"],
            registry=registry,
        )
        self._state.labels("slots").set(slots)
        self._state.labels("cells").set(cells)
        self._last = SchedulerStats()

    def observe_step(self, scheduler: Scheduler) -> None:
        """Update after a step."""
        stats, last = scheduler.stats, self._last
        self._last = replace(stats)
        if stats.steps > last.steps:
            decoded = stats.decoded_tokens - last.decoded_tokens
            self._batch_tokens.observe(decoded)
            self._tokens.labels("decoded").inc(decoded)
        self._preemptions.inc(stats.preemptions - last.preemptions)
        self._rebuilds.inc(stats.rebuilds - last.rebuilds)
        self._state.labels("running").set(len(scheduler.running))
        self._state.labels("waiting").set(len(scheduler.waiting))
        self._state.labels("cells_held").set(scheduler.cache.cells_held)
        self._state.labels("lanes_used").set(scheduler.cache.sequences_used)

    def observe_request(self, sequence: Sequence, outcome: Outcome) -> None:
        """Update at the end of a request."""
        output = sequence.decoder.output
        self._requests.labels(outcome.value).inc()
        if sequence.admitted:
            self._queue_s.observe(sequence.admitted - sequence.arrived)
            self._tokens.labels("prompt").inc(len(sequence.prompt))
            self._tokens.labels("cached").inc(sequence.cached_tokens)
        if sequence.first_token:
            self._first_token_s.observe(sequence.first_token - sequence.arrived)
        self._tokens.labels("forced").inc(output.forced)
        self._tokens.labels("sampled").inc(output.sampled)
