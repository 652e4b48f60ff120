"""Hits that say or show the same: marked always, and folded into the best of them where distinct hits are asked for.

Pure: values in, values out. Thresholds are the module's constants.
"""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
# Two pictures are alike when this few of 64 gradient signs differ and their vectors are this near, or when the vectors
# alone are as near as those of one picture saved twice.
MOST_SIGNS, NEAR, NEAREST = 6, 0.95, 0.995


@dataclass(frozen=True)
class Look:
    """What of an item tells whether it is like another. `vector`: its picture's, of length 1."""

    note: str | None
    signs: int | None
    vector: Vectors | None


@dataclass(frozen=True)
class Kept:
    """A hit, and how many lower ones were left out because of it."""

    number: int
    score: float
    folded: int


def note_digest(note: str) -> str:
    """Equal for notes that differ in case and white space only."""
    return hashlib.sha256(" ".join(note.casefold().split()).encode()).hexdigest()[:32]


def fold(ranked: Sequence[tuple[int, float]], keys: Mapping[int, Hashable], *, k: int) -> list[Kept]:
    """The best hit of each key, up to `k`; an item without a key stands for itself."""
    best: dict[Hashable, int] = {}
    kept: list[tuple[int, float]] = []
    folded: list[int] = []
    for number, score in ranked:
        key = keys.get(number)
        if key is None or key not in best:
            if key is not None:
                best[key] = len(kept)
            kept.append((number, score))
            folded.append(0)
        else:
            folded[best[key]] += 1
    return [Kept(number, score, left) for (number, score), left in zip(kept[:k], folded[:k], strict=True)]


def mark(looks: Sequence[Look]) -> list[int | None]:
    """For each, best first, the place of the first better one that says or shows the same; None where there is none."""
    first = _first_like(looks)
    said: dict[str, int] = {}
    marks: list[int | None] = []
    for place, look in enumerate(looks):
        better = first[place] if look.note is None else min(first[place], said.setdefault(look.note, place))
        marks.append(better if better < place else None)
    return marks


def _first_like(looks: Sequence[Look]) -> list[int]:
    """For each the place of the first whose picture is like its own, which may be itself."""
    first = list(range(len(looks)))
    shown = [place for place in first if looks[place].vector is not None]
    if len(shown) < 2:
        return first
    vectors = np.array([looks[place].vector for place in shown])
    cosines = vectors @ vectors.T
    near = cosines >= NEAR
    np.fill_diagonal(near, val=True)
    if np.count_nonzero(near) == len(shown):  # most often: each is near itself only
        return first
    signs = np.array([-1 if (s := looks[place].signs) is None else s for place in shown], dtype=np.int64)
    known = np.array([looks[place].signs is not None for place in shown])
    # Unsigned: of a negative number NumPy counts the bits of its absolute value.
    differing = np.bitwise_count((signs[:, None] ^ signs[None, :]).view(np.uint64))
    perceptual = (differing <= MOST_SIGNS) & known[:, None] & known[None, :]
    alike = (cosines >= NEAREST) | (perceptual & near)
    np.fill_diagonal(alike, val=True)
    for place, better in zip(shown, alike.argmax(axis=1).tolist(), strict=True):
        first[place] = shown[better]
    return first
