"""Searches that came together: those of one index with the same selection are one call of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermnote_retrieval.index.adaptive import AdaptiveIndex
from dermnote_retrieval.index.types import Found, Selection, Vectors


@dataclass(frozen=True, eq=False)
class Query:
    """One vector [dim] for one index."""

    index: AdaptiveIndex
    vector: Vectors
    k: int
    among: Selection


def search_together(queries: Sequence[Query]) -> list[Found]:
    """What each of them finds, in their order."""
    found: list[Found] = [[] for _ in queries]
    alike: dict[tuple[int, int], list[int]] = {}
    for place, query in enumerate(queries):
        among = 0 if query.among.everything else id(query.among)
        alike.setdefault((id(query.index), among), []).append(place)
    for places in alike.values():
        first = queries[places[0]]
        vectors = np.stack([queries[place].vector for place in places])
        together = first.index.search(vectors, k=max(queries[place].k for place in places), among=first.among)
        for place, one in zip(places, together, strict=True):
            found[place] = one[: queries[place].k]
    return found
