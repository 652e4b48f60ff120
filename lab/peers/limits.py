"""Measures llama.cpp's speed on this machine without the engine, as llama-bench does, in the engine's layout."""

import itertools
import statistics
import time
from collections.abc import Sequence

from dermnote_notegen.engine.amx_probe import repacking_works
from dermnote_notegen.engine.llama import ContextConfig, LlamaContext, Weights
from dermnote_notegen.engine.model import BatchToken, ModelInfo, find_weights
from dermnote_notegen.engine.tune.layouts import WeightsFile, select_weights
from dermnote_notegen.settings import Settings

ROUNDS = 3
DEPTH = 100


def measured() -> dict[str, float]:
    """Tokens per second for prompts of 128 and 512 tokens, and for generation in 1 and 16 sequences of 100 tokens."""
    settings = Settings()
    name, path, sha256 = find_weights("smollm2")
    source = WeightsFile(path, ModelInfo(name, sha256))
    selected = select_weights(source, threads=settings.engine_threads, folder=settings.cache_dir)
    weights = Weights(selected.path, repack=repacking_works(selected.path))
    context = LlamaContext(
        weights, ContextConfig(cells=4096, max_sequences=17, threads=settings.engine_threads, keys=selected.keys)
    )
    return {
        "prompt of 128": _rate(context, [[_tokens(0, 0, 128)]]),
        "prompt of 512": _rate(context, [[_tokens(0, 0, 512)]]),
        "1 sequence": _rate(context, [[_tokens(0, 0, DEPTH)], *([_tokens(0, DEPTH + at, 1)] for at in range(32))]),
        "16 sequences": _rate(
            context,
            [
                *([_tokens(seq_id, 0, DEPTH)] for seq_id in range(16)),
                *([_tokens(seq_id, DEPTH + at, 1) for seq_id in range(16)] for at in range(16)),
            ],
            untimed=16,
        ),
    }


def _tokens(seq_id: int, start: int, count: int) -> list[BatchToken]:
    return [
        BatchToken(1000 + (seq_id * 37 + start + at) % 5000, start + at, seq_id, at == count - 1) for at in range(count)
    ]


def _rate(
    context: LlamaContext, steps: Sequence[Sequence[Sequence[BatchToken]]], *, untimed: int | None = None
) -> float:
    """Median tokens per second. `untimed`: number of first steps left out, by default 1 (0 if there is only one)."""
    skipped = len(steps) > 1 if untimed is None else untimed
    rates = []
    for _ in range(ROUNDS):
        for seq_id in range(context.max_sequences):
            context.drop(seq_id, start=0)
        tokens = 0
        seconds = 0.0
        for number, step in enumerate(steps):
            batch = list(itertools.chain.from_iterable(step))
            begin = time.perf_counter()
            context.decode(batch)
            if number >= skipped:
                seconds += time.perf_counter() - begin
                tokens += len(batch)
        rates.append(tokens / seconds)
    return statistics.median(rates)
