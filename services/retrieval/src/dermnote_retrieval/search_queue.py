"""Searches that arrive together go to the index together: those with the same selection in one call."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermnote_retrieval.batching import Batcher
from dermnote_retrieval.index.adaptive import AdaptiveIndex
from dermnote_retrieval.index.results import Found, Selection, Vectors
from dermnote_retrieval.work import Work

MOST = 64


@dataclass(frozen=True, eq=False)
class Query:
    """One vector [dim] for one index."""

    index: AdaptiveIndex
    vector: Vectors
    k: int
    among: Selection


class SearchQueue:
    """One thread in which all searches run, whoever asks."""

    def __init__(self, work: Work | None = None) -> None:
        measured = (work or Work()).timed("search", _search)
        self._batcher: Batcher[Query, Found] = Batcher(measured, most=MOST, name="search")

    def __call__(self, queries: Sequence[Query]) -> list[Found]:
        """What each of one caller's queries finds."""
        return self._batcher(queries)

    def waiting(self) -> int:
        """Queries that no batch has taken yet."""
        return self._batcher.waiting()

    def close(self) -> None:
        """End the thread."""
        self._batcher.close()


def _search(queries: Sequence[Query]) -> list[Found]:
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
