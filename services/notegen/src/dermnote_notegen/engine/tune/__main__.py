"""Measure every layout of the weights on this machine and remember the fastest one for later starts of the engine.

python -m dermnote_notegen.engine.tune      (with the engine's settings; takes about a minute on an idle machine)
"""

import logging
import statistics
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from filelock import FileLock

from dermnote_notegen.engine.model import ModelInfo, ModelNotFound, find_weights
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
from dermnote_notegen.settings import Settings

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


def main() -> None:
    """Measure the layouts of the model that NOTEGEN_MODEL names."""
    logging.basicConfig(level="INFO", format="%(message)s")
    settings = Settings()
    try:
        name, path, sha256 = find_weights(settings.model)
        source = WeightsFile(path, ModelInfo(name, sha256))
        chosen = tune(source, threads=settings.engine_threads, folder=settings.cache_dir)
    except (ModelNotFound, OSError) as error:
        sys.exit(f"tune: {error}")
    print(f"{name} runs with {chosen} on this machine from the next start on (NOTEGEN_REQUANTIZE=auto)")


if __name__ == "__main__":
    main()
