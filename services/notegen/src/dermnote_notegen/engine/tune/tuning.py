"""Measures every layout of the weights on this machine and remembers the fastest one for later starts of the engine."""

import logging
import statistics
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from filelock import FileLock

from dermnote_notegen.engine.model import ModelNotFound
from dermnote_notegen.engine.tune.layouts import (
    LOCK,
    MAX_PERPLEXITY_RISE,
    ORIGINAL,
    QUANTIZATIONS,
    SOURCE,
    Layout,
    Measurement,
    WeightsFile,
    converted,
    measure,
    remember,
)

log = logging.getLogger(__name__)
KEY_TYPES = ("f16", "bf16")
MIN_SPEEDUP = 1.05
ROUNDS = 2


def choose(measured: Mapping[Layout, Measurement]) -> Layout:
    """The fastest layout whose perplexity is at most 2 % above the original's; the original if none is 5 % faster."""
    original = measured[ORIGINAL]
    accepted = [
        layout
        for layout, result in measured.items()
        if result.tokens_per_s >= original.tokens_per_s * MIN_SPEEDUP
        and result.perplexity <= original.perplexity * (1 + MAX_PERPLEXITY_RISE)
    ]
    return max(accepted, key=lambda layout: measured[layout].tokens_per_s, default=ORIGINAL)


def tune(source: WeightsFile, *, threads: int, folder: Path) -> Layout:
    """Measure all layouts, remember the best one, delete unused files. Raises ModelNotFound or OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        measured: dict[Layout, list[Measurement]] = {}
        for _ in range(ROUNDS):  # each round measures every layout, since a machine's speed varies
            for layout in (Layout(*pair) for pair in product((SOURCE, *QUANTIZATIONS), KEY_TYPES)):
                path = converted(source, layout.quantization, folder).path
                try:
                    measured.setdefault(layout, []).append(measure(path, threads=threads, keys=layout.keys))
                except ModelNotFound as error:
                    if layout.quantization == SOURCE:
                        raise
                    log.warning("%s is skipped: %s", layout, error)
        results = {
            layout: Measurement(runs[0].perplexity, statistics.median(run.tokens_per_s for run in runs))
            for layout, runs in measured.items()
            if runs
        }
        for layout, result in results.items():
            log.info("%s: %.0f tokens/s, perplexity %.2f", layout, result.tokens_per_s, result.perplexity)
        chosen = choose(results)
        remember(chosen, source.info, threads, folder)
        return chosen
