"""Duplicate hits: those with an equal note or a near-duplicate image are marked, or folded for distinct hits.

Pure functions.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
# Two images are near-duplicates if at most MAX_BITS of their 64 hash bits differ and their cosine is at least
# MIN_COSINE, or if the cosine alone is that of one image saved twice.
MAX_BITS, MIN_COSINE, SAME_COSINE = 6, 0.95, 0.995


@dataclass(frozen=True)
class Fingerprint:
    """Fingerprint of an item: digest of its note, hash of its image, and its image's unit vector [dim]."""

    note_digest: str | None
    difference_hash: int | None
    vector: Vectors | None


@dataclass(frozen=True)
class RankedItem:
    """An item's number, its score, and how many lower hits were folded into it."""

    number: int
    score: float
    folded: int = 0


def fold(ranked: Sequence[tuple[int, float]], keys: Mapping[int, Hashable], *, k: int) -> list[RankedItem]:
    """The best hit per key, up to `k`; an item without a key is never folded."""
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
    return [RankedItem(number, score, count) for (number, score), count in zip(kept[:k], folded[:k], strict=True)]


def duplicates_of(fingerprints: Sequence[Fingerprint]) -> list[int | None]:
    """For each, best first, the position of the first better hit with an equal note or similar image, or None."""
    similar = _first_similar(fingerprints)
    first_with_note: dict[str, int] = {}
    duplicates: list[int | None] = []
    for position, item in enumerate(fingerprints):
        first = similar[position]
        if item.note_digest is not None:
            first = min(first, first_with_note.setdefault(item.note_digest, position))
        duplicates.append(first if first < position else None)
    return duplicates


def _first_similar(fingerprints: Sequence[Fingerprint]) -> list[int]:
    """For each the position of the first item with a similar image, possibly its own."""
    first = list(range(len(fingerprints)))
    with_image = [position for position in first if fingerprints[position].vector is not None]
    if len(with_image) < 2:
        return first
    vectors = np.array([fingerprints[position].vector for position in with_image])
    cosines = vectors @ vectors.T
    near = cosines >= MIN_COSINE
    np.fill_diagonal(near, val=True)
    if np.count_nonzero(near) == len(with_image):  # the usual case: each is near only itself
        return first
    hashes = [fingerprints[position].difference_hash for position in with_image]
    known = np.array([value is not None for value in hashes])
    signs = np.array([-1 if value is None else value for value in hashes], dtype=np.int64)
    # Unsigned: NumPy counts the bits of a negative number's absolute value.
    differing = np.bitwise_count((signs[:, None] ^ signs[None, :]).view(np.uint64))
    similar_hash = (differing <= MAX_BITS) & known[:, None] & known[None, :]
    similar = (cosines >= SAME_COSINE) | (similar_hash & near)
    np.fill_diagonal(similar, val=True)
    for position, better in zip(with_image, similar.argmax(axis=1).tolist(), strict=True):
        first[position] = with_image[better]
    return first
