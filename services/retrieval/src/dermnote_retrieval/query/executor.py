"""Runs search plans: those that arrive together share index searches and one read of the store.

A hit whose note or image duplicates that of a better hit is marked; with `distinct`, hits with equal notes or the same
group are folded into the best of them.
"""

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dermnote_contracts.retrieval import Distinct, Exclude, Hit, Route, Via
from dermnote_retrieval.encoder.base import Vectors
from dermnote_retrieval.index.adaptive import AdaptiveIndex
from dermnote_retrieval.index.exact import Neighbours, Selection
from dermnote_retrieval.ingest.writer import ServedModel
from dermnote_retrieval.runtime.metrics import StepTimer, WorkMetrics
from dermnote_retrieval.store.items import ItemStore, StoredItem

# Two images are near-duplicates if at most MAX_BITS of their 64 hash bits differ and their cosine is at least
# MIN_COSINE, or if their cosine is at least SAME_COSINE, as it is for one image saved twice.
MAX_BITS, MIN_COSINE, SAME_COSINE = 6, 0.95, 0.995
RANK_CONSTANT = 60
"""k of reciprocal rank fusion (Cormack et al. 2009)."""
MIN_DEPTH = 100
"""Minimum number of ranks per route that are fused."""
DEEPENING = 4
"""Factor on the depth of the next search when too few hits are distinct."""


@dataclass(frozen=True)
class Fingerprint:
    """What duplicates are detected by: digest of the note, hash of the image, and the image's unit vector [dim]."""

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
    """For each hit, best first: position of the first better hit with an equal note or similar image, or None."""
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
    """For each hit, the position of the first hit with a similar image, possibly its own."""
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
    # Viewed as unsigned, because NumPy's bitwise_count takes the absolute value of negative numbers.
    differing = np.bitwise_count((signs[:, None] ^ signs[None, :]).view(np.uint64))
    similar_hash = (differing <= MAX_BITS) & known[:, None] & known[None, :]
    similar = (cosines >= SAME_COSINE) | (similar_hash & near)
    np.fill_diagonal(similar, val=True)
    for position, better in zip(with_image, similar.argmax(axis=1).tolist(), strict=True):
        first[position] = with_image[better]
    return first


@dataclass(frozen=True)
class Scope:
    """Which items a search may return, how many, and by which route."""

    k: int = 10
    via: Via = "fused"
    filter: Mapping[str, Any] | None = None
    exclude: Exclude = field(default_factory=Exclude)
    distinct: Distinct | None = None

    @property
    def everything(self) -> bool:
        """Whether every item may be returned."""
        return not self.filter and not self.exclude.ids and not self.exclude.groups


@dataclass(frozen=True, eq=False)
class SearchPlan:
    """Everything that a search needs. `vectors`: a query vector [dim] for each route to be searched."""

    served: ServedModel
    vectors: Mapping[Route, Vectors]
    scope: Scope
    selection: Selection
    timer: StepTimer
    planned_at: float = field(default_factory=time.perf_counter)

    @property
    def depth(self) -> int:
        """Number of neighbours per route that the first search returns."""
        return self.scope.k if len(self.vectors) == 1 else max(MIN_DEPTH, 4 * self.scope.k)


@dataclass(frozen=True, eq=False)
class IndexQuery:
    """One query vector [dim] for one index."""

    index: AdaptiveIndex
    vector: Vectors
    k: int
    selection: Selection


@dataclass(frozen=True)
class Ranking:
    """The ranked items of a plan, and the neighbours by route that they come from."""

    items: Sequence[RankedItem]
    neighbours: Mapping[Route, Neighbours]


class QueryExecutor:
    """Runs batches of plans."""

    def __init__(self, items: ItemStore, work: WorkMetrics) -> None:
        self._items = items
        self._work = work

    def run(self, plans: Sequence[SearchPlan]) -> list[list[Hit]]:
        """The hits of each plan."""
        rankings = self._rank(plans)
        for plan in plans:
            plan.timer.end("search", since=plan.planned_at)
        started = time.perf_counter()
        items = self._items.by_number(list({item.number for ranking in rankings for item in ranking.items}))
        hits = [_hits(items, plan.served, ranking) for plan, ranking in zip(plans, rankings, strict=True)]
        for plan in plans:
            plan.timer.end("fetch", since=started)
        return hits

    def _rank(self, plans: Sequence[SearchPlan]) -> list[Ranking]:
        """The ranking of each plan; searches again, deeper, where too few of the hits are distinct."""
        rankings: dict[int, Ranking] = {}
        depths = {position: plan.depth for position, plan in enumerate(plans)}
        while depths:
            queries = {
                (position, route): IndexQuery(plan.served.indexes[route], vector, depth, plan.selection)
                for position, depth in depths.items()
                for plan in [plans[position]]
                for route, vector in plan.vectors.items()
            }
            with self._work.measure("search", size=len(queries)):
                results = dict(zip(queries, search_together(list(queries.values())), strict=True))
            deeper: dict[int, int] = {}
            for position, depth in depths.items():
                neighbours = {route: results[position, route] for route in plans[position].vectors}
                items = self._ranked_items(neighbours, plans[position].scope, depth=depth)
                if items is None:
                    deeper[position] = depth * DEEPENING
                else:
                    rankings[position] = Ranking(items, neighbours)
            depths = deeper
        return [rankings[position] for position in range(len(plans))]

    def _ranked_items(
        self, neighbours: Mapping[Route, Neighbours], scope: Scope, *, depth: int
    ) -> list[RankedItem] | None:
        """The hits among the neighbours found at a depth; None if there may be more distinct ones further down."""
        scores = next(iter(neighbours.values())) if len(neighbours) == 1 else reciprocal_rank(neighbours)
        if scope.distinct is None:
            return [RankedItem(number, score) for number, score in scores[: scope.k]]
        keys = self._items.keys([number for number, _ in scores], distinct=scope.distinct)
        items = fold(scores, keys, k=scope.k)
        exhausted = all(len(found) < depth for found in neighbours.values())
        return items if exhausted or len(items) == scope.k else None


def search_together(queries: Sequence[IndexQuery]) -> list[Neighbours]:
    """The neighbours of each query, in order; queries of one index with the same selection share a call."""
    results: list[Neighbours] = [[] for _ in queries]
    groups: dict[tuple[int, int], list[int]] = {}
    for position, query in enumerate(queries):
        selection = 0 if query.selection.everything else id(query.selection)
        groups.setdefault((id(query.index), selection), []).append(position)
    for positions in groups.values():
        first = queries[positions[0]]
        vectors = np.stack([queries[position].vector for position in positions])
        deepest = max(queries[position].k for position in positions)
        found = first.index.search(vectors, k=deepest, selection=first.selection)
        for position, neighbours in zip(positions, found, strict=True):
            results[position] = neighbours[: queries[position].k]
    return results


def reciprocal_rank(neighbours: Mapping[Route, Neighbours]) -> Neighbours:
    """(number, sum of 1 / (60 + rank)) over all routes, best first; equal sums are ordered by item number."""
    sums: dict[int, float] = {}
    for found in neighbours.values():
        for rank, (number, _) in enumerate(found, start=1):
            sums[number] = sums.get(number, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(sums.items(), key=lambda entry: (-entry[1], entry[0]))


def _hits(stored: Mapping[int, StoredItem], served: ServedModel, ranking: Ranking) -> list[Hit]:
    """Hits with the contents of their items; items deleted since the index was searched are left out."""
    ranks = {
        route: {number: rank for rank, (number, _) in enumerate(found, start=1)}
        for route, found in ranking.neighbours.items()
    }
    present = [(stored[ranked.number], ranked) for ranked in ranking.items if ranked.number in stored]
    vectors = served.indexes["images"].vectors([item.number for item, _ in present])
    fingerprints = [
        Fingerprint(i.note_digest, i.difference_hash, v) for (i, _), v in zip(present, vectors, strict=True)
    ]
    return [
        Hit(
            id=item.id,
            score=ranked.score,
            rank=rank,
            ranks={route: of_route[item.number] for route, of_route in ranks.items() if item.number in of_route},
            note=item.note,
            metadata=item.metadata,
            group=item.group,
            image=image_link(item.id) if item.has_image else None,
            duplicate_of=None if better is None else present[better][0].id,
            folded=ranked.folded,
        )
        for rank, ((item, ranked), better) in enumerate(zip(present, duplicates_of(fingerprints), strict=True), start=1)
    ]


def image_link(item_id: str) -> str:
    """The path of an item's thumbnail, relative to the service."""
    return f"/items/{item_id}/image"
