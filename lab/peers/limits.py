"""What llama.cpp itself reaches here, as llama-bench would measure it, in the layout of the weights that we run."""

import itertools
import statistics
import time
from collections.abc import Sequence

from dermnote_notegen.engine.context import Row
from dermnote_notegen.engine.llama import LlamaContext, Shape, Weights
from dermnote_notegen.engine.model import Origin, find_weights
from dermnote_notegen.engine.tune.layouts import tune
from dermnote_notegen.settings import Settings

ROUNDS = 3
DEPTH = 100


def measured() -> dict[str, float]:
    """Tokens a second: a prompt of 128 and of 512 tokens, one sequence and sixteen generating behind 100 tokens."""
    settings = Settings()
    name, path, sha256 = find_weights("smollm2")
    shape = Shape(cells=4096, lanes=17, threads=settings.engine_threads)
    tuned = tune(path, Origin(name, sha256), shape=shape, folder=settings.cache_dir)
    weights = Weights(tuned.path)
    context = LlamaContext(weights, Shape(cells=4096, lanes=17, threads=settings.engine_threads, keys=tuned.keys))
    return {
        "prompt of 128": _rate(context, [[_rows(0, 0, 128)]]),
        "prompt of 512": _rate(context, [[_rows(0, 0, 512)]]),
        "1 sequence": _rate(context, [[_rows(0, 0, DEPTH)], *([_rows(0, DEPTH + at, 1)] for at in range(32))]),
        "16 sequences": _rate(
            context,
            [
                *([_rows(lane, 0, DEPTH)] for lane in range(16)),
                *([_rows(lane, DEPTH + at, 1) for lane in range(16)] for at in range(16)),
            ],
            untimed=16,
        ),
    }


def _rows(lane: int, start: int, count: int) -> list[Row]:
    return [Row(1000 + (lane * 37 + start + at) % 5000, start + at, lane, at == count - 1) for at in range(count)]


def _rate(context: LlamaContext, steps: Sequence[Sequence[Sequence[Row]]], *, untimed: int | None = None) -> float:
    skipped = len(steps) > 1 if untimed is None else untimed
    rates = []
    for _ in range(ROUNDS):
        for lane in range(context.lanes):
            context.drop(lane, start=0)
        rows = 0
        took = 0.0
        for number, step in enumerate(steps):
            batch = list(itertools.chain.from_iterable(step))
            begun = time.perf_counter()
            context.decode(batch)
            if number >= skipped:
                took += time.perf_counter() - begun
                rows += len(batch)
        rates.append(rows / took)
    return statistics.median(rates)
