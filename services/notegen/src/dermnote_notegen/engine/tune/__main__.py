"""Measure every layout of the weights on this machine and remember the fastest one for later starts of the engine.

python -m dermnote_notegen.engine.tune      (settings as for the engine; half a minute on an idle machine)
"""

import itertools
import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dermnote_notegen.engine.context import BatchToken
from dermnote_notegen.engine.llama import ContextConfig, LlamaContext, Weights
from dermnote_notegen.engine.model import ModelInfo, ModelNotFound, find_weights
from dermnote_notegen.engine.tune.layouts import (
    MAX_PERPLEXITY_RISE,
    ORIGINAL,
    QUANTIZATIONS,
    SOURCE,
    Layout,
    WeightsFile,
    converted,
    loaded,
    locked,
    perplexity,
    remember,
)
from dermnote_notegen.settings import Settings

log = logging.getLogger(__name__)
KEY_TYPES = ("f16", "bf16")
MIN_SPEEDUP = 1.05
ROUNDS = 2
# The measured load: sequences after one shared prefix, a few tokens each per step.
SEQUENCES, PREFIX_TOKENS, STEP_TOKENS, STEPS, CELLS = 16, 96, 3, 8, 1024


def choose(speeds: Mapping[Layout, float], perplexity_of: Callable[[Layout], float]) -> Layout:
    """The fastest layout whose perplexity is at most 2 % above the original's.

    `speeds`: tokens per second. The original layout is kept unless another one is 5 % faster.
    """
    faster = [layout for layout in speeds if speeds[layout] >= speeds[ORIGINAL] * MIN_SPEEDUP]
    limit = perplexity_of(ORIGINAL) * (1 + MAX_PERPLEXITY_RISE) if faster else 0.0
    for layout in sorted(faster, key=lambda layout: -speeds[layout]):
        if perplexity_of(layout) <= limit:
            return layout
    return ORIGINAL


def tune(source: WeightsFile, *, threads: int, folder: Path) -> Layout:
    """Measure all layouts, remember the best one and delete the others. Raises ModelNotFound or OSError."""
    with locked(folder):
        paths = {name: converted(source, name, folder).path for name in (SOURCE, *QUANTIZATIONS)}
        measured: dict[Layout, list[float]] = {}
        for name, path in list(paths.items()) * ROUNDS:  # in turns, since a machine's speed varies
            for layout, speed in _speeds(name, path, threads).items():
                measured.setdefault(layout, []).append(speed)
        speeds = {layout: statistics.median(values) for layout, values in measured.items()}
        for layout, speed in speeds.items():
            log.info("%s: %.0f tokens/s", layout, speed)

        def measured_perplexity(layout: Layout) -> float:
            value = perplexity(paths[layout.quantization], threads=threads, keys=layout.keys)
            log.info("%s: perplexity %.2f", layout, value)
            return value

        chosen = choose(speeds, measured_perplexity)
        remember(chosen, source.info, threads, folder)
        return chosen


def _speeds(name: str, path: Path, threads: int) -> dict[Layout, float]:
    """Tokens per second by type of the keys; empty for a layout that llama.cpp cannot load."""
    found = {}
    try:
        with loaded(path) as weights:
            for keys in KEY_TYPES:
                config = ContextConfig(cells=CELLS, max_sequences=SEQUENCES + 1, threads=threads, keys=keys)
                context = LlamaContext(weights, config)
                try:
                    found[Layout(name, keys)] = tokens_per_second(weights, context)
                finally:
                    context.close()
    except ModelNotFound as error:
        if name == SOURCE:
            raise
        log.warning("%s is skipped: %s", name, error)
    return found


def tokens_per_second(weights: Weights, context: LlamaContext) -> float:
    """Speed of steps like the engine's, in an empty context."""
    sequences = range(1, SEQUENCES + 1)
    first = min(1000, weights.vocabulary.size // 2)
    tokens = itertools.cycle(range(first, weights.vocabulary.size // 2 + 1000))
    context.decode([BatchToken(next(tokens), position, 0, logits=False) for position in range(PREFIX_TOKENS)])
    if context.shares:
        for seq_id in sequences:
            context.copy(0, seq_id, length=PREFIX_TOKENS)
    begin = PREFIX_TOKENS if context.shares else 0
    seconds = 0.0
    for step in range(STEPS):
        batch = [
            BatchToken(next(tokens), begin + step * STEP_TOKENS + offset, seq_id, offset == STEP_TOKENS - 1)
            for seq_id in sequences
            for offset in range(STEP_TOKENS)
        ]
        started = time.perf_counter()
        context.decode(batch)
        seconds += time.perf_counter() - started
    return STEPS * STEP_TOKENS * len(sequences) / seconds


def main() -> None:
    """Measure the model of the settings."""
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
