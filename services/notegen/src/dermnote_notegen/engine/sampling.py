"""Choosing a token from logits: top-k, top-p, min-p, temperature, in llama.cpp's own order. One sampler a sequence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Tokens = NDArray[np.int64]
# Tokens this far below the best one (e^-16) are looked at only where fewer than top_k are nearer.
NEAR = 16.0


class LogitsBroken(Exception):
    """Logits that are no numbers: the context or the model is broken, and there is nothing to choose from."""


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 takes the likeliest; `top_k` 0, `top_p` 1 and `min_p` 0 leave nothing out."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Sampler:
    """The random numbers of one sequence; the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling, *, seed: int) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(seed)

    def pick(self, logits: Logits, allowed: Tokens | None = None) -> int:
        """One token id of `logits`, shape [vocabulary]; only among `allowed`, ascending ids, where that is given.

        Raises LogitsBroken where one of those is NaN or infinite, or all are minus infinity.
        """
        pool = logits if allowed is None else logits[allowed]
        chosen = self._index(pool)
        return chosen if allowed is None else int(allowed[chosen])

    def _index(self, logits: Logits) -> int:
        if not np.isfinite(most := logits.max()):  # a NaN anywhere is the maximum too
            raise LogitsBroken(f"the likeliest logit is {most}: the context or the model is broken")
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        kept, probabilities = _kept(logits, self.sampling)
        at = np.searchsorted(probabilities.cumsum(), self._random.random() * probabilities.sum(), side="right")
        return int(kept[min(int(at), len(kept) - 1)])


def _kept(logits: Logits, sampling: Sampling) -> tuple[Tokens, NDArray[np.float64]]:
    """(indices, their probabilities up to a factor), the likeliest first where anything is left out."""
    kept = _likeliest(logits, sampling)
    values = logits[kept].astype(np.float64)
    values -= values.max()
    if sampling.top_p < 1:
        weights = np.exp(values)
        mass = weights.cumsum()
        most = int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1
        kept, values = kept[:most], values[:most]
    if sampling.min_p > 0:
        near = values >= np.log(sampling.min_p)
        kept, values = kept[near], values[near]
    return kept, np.exp(values / sampling.temperature)


def _likeliest(logits: Logits, sampling: Sampling) -> Tokens:
    """The top_k indices, sorted where top_p needs an order; all of them without top_k."""
    count = sampling.top_k or len(logits)
    if count >= len(logits):
        indices = np.arange(len(logits))
    else:
        indices = np.flatnonzero(logits >= logits.max() - NEAR)
        if len(indices) < count:
            indices = np.arange(len(logits))
        if len(indices) > count:
            indices = indices[np.argpartition(logits[indices], -count)[-count:]]
    if sampling.top_p < 1:
        indices = indices[np.argsort(-logits[indices], kind="stable")]
    return indices
