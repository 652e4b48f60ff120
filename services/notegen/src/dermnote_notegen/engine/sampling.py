"""Sampling a token from logits: top-k, top-p, min-p, temperature, in llama.cpp's order. One sampler per sequence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]
# Tokens this far below the best one (e^-16) are considered only if fewer than top_k are closer.
TOP_K_MARGIN = 16.0


class InvalidLogits(Exception):
    """The logits are NaN or infinite: the context or the model is broken."""


@dataclass(frozen=True)
class SamplingParams:
    """`temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 disable the filter."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Sampler:
    """The random state of one sequence; the same seed and logits give the same tokens."""

    def __init__(self, params: SamplingParams, *, seed: int) -> None:
        self.params = params
        self._random = np.random.default_rng(seed)

    def sample(self, logits: Logits, allowed: TokenIds | None = None) -> int:
        """One token id from `logits`, shape [vocabulary], restricted to `allowed` (ascending ids) if given.

        Raises InvalidLogits if one of the candidates is NaN or infinite, or all are minus infinity.
        """
        candidates = logits if allowed is None else logits[allowed]
        chosen = self._sample_index(candidates)
        return chosen if allowed is None else int(allowed[chosen])

    def _sample_index(self, logits: Logits) -> int:
        if not np.isfinite(highest := logits.max()):  # NaN propagates through max
            raise InvalidLogits(f"the highest logit is {highest}: the context or the model is broken")
        if self.params.temperature == 0:
            return int(logits.argmax())
        indices, weights = _filtered(logits, self.params)
        at = np.searchsorted(weights.cumsum(), self._random.random() * weights.sum(), side="right")
        return int(indices[min(int(at), len(indices) - 1)])


def _filtered(logits: Logits, params: SamplingParams) -> tuple[TokenIds, NDArray[np.float64]]:
    """(indices, unnormalised probabilities) after all filters; the likeliest first if anything was filtered out."""
    indices = _top_k(logits, params)
    values = logits[indices].astype(np.float64)
    values -= values.max()
    if params.top_p < 1:
        mass = np.exp(values).cumsum()
        count = int(np.searchsorted(mass, params.top_p * mass[-1])) + 1
        indices, values = indices[:count], values[:count]
    if params.min_p > 0:
        near = values >= np.log(params.min_p)
        indices, values = indices[near], values[near]
    return indices, np.exp(values / params.temperature)


def _top_k(logits: Logits, params: SamplingParams) -> TokenIds:
    """The top_k indices, sorted only if top_p needs an order; all indices without top_k."""
    count = params.top_k or len(logits)
    if count >= len(logits):
        indices = np.arange(len(logits))
    else:
        indices = np.flatnonzero(logits >= logits.max() - TOP_K_MARGIN)
        if len(indices) < count:
            indices = np.arange(len(logits))
        if len(indices) > count:
            indices = indices[np.argpartition(logits[indices], -count)[-count:]]
    if params.top_p < 1:
        indices = indices[np.argsort(-logits[indices], kind="stable")]
    return indices
