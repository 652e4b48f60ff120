"""Speed and losses of loaded weights, through their context alone."""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from dermnote_notegen.engine.context import Row
from dermnote_notegen.engine.llama import LlamaContext, Weights

# How speed and losses are measured: tokens of the prefix, tokens a sequence and step, steps, tokens at a time.
PREFIX_ROWS, STEP_ROWS, STEPS, LOSS_CHUNK = 96, 3, 8, 64


def token_losses(weights: Weights, context: LlamaContext, text: str) -> Iterator[float]:
    """-log p of each token of a text behind those before it."""
    tokens = weights.encode(text, begin=True)
    context.drop(0, start=0)
    for start in range(0, len(tokens) - 1, LOSS_CHUNK):
        chunk = tokens[start : start + LOSS_CHUNK]
        context.decode([Row(token, start + offset, 0, wanted=True) for offset, token in enumerate(chunk)])
        for offset, following in enumerate(tokens[start + 1 : start + 1 + len(chunk)]):
            logits = context.logits(offset).astype(np.float64)
            most = logits.max()
            yield float(most + np.log(np.exp(logits - most).sum()) - logits[following])
    context.drop(0, start=0)


def rows_per_second(weights: Weights, context: LlamaContext) -> float:
    """Tokens decoded a second in steps like an engine's: some sequences, a few tokens each, behind one prefix."""
    lanes = range(1, min(context.lanes, 17))
    tokens = itertools.cycle(range(min(1000, weights.vocabulary.size // 2), weights.vocabulary.size // 2 + 1000))
    for lane in range(context.lanes):
        context.drop(lane, start=0)
    context.decode([Row(next(tokens), position, 0, wanted=False) for position in range(PREFIX_ROWS)])
    for lane in lanes:
        if context.shares:
            context.copy(0, lane, length=PREFIX_ROWS)
    begins = PREFIX_ROWS if context.shares else 0
    took = 0.0
    for step in range(STEPS):
        rows = [
            Row(next(tokens), begins + step * STEP_ROWS + offset, lane, offset == STEP_ROWS - 1)
            for lane in lanes
            for offset in range(STEP_ROWS)
        ]
        started = time.perf_counter()
        context.decode(rows)
        took += time.perf_counter() - started
    return STEPS * STEP_ROWS * len(lanes) / took
