"""Runs searches in one thread: plans that arrive together share index searches and one read of the store."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dermnote_contracts.retrieval import Distinct, Exclude, Hit, Route, Via
from dermnote_retrieval.encoder.protocol import Vectors
from dermnote_retrieval.index.adaptive import AdaptiveIndex
from dermnote_retrieval.index.types import Neighbours, Selection
from dermnote_retrieval.ingest.writer import ServedModel
from dermnote_retrieval.query.duplicates import Fingerprint, RankedItem, duplicates_of, fold
from dermnote_retrieval.runtime.batching import Batcher
from dermnote_retrieval.runtime.measurements import StepTimer, WorkMetrics
from dermnote_retrieval.store.items import ItemStore, StoredItem

MAX_BATCH = 64
RANK_CONSTANT = 60
"""k of reciprocal rank fusion (Cormack et al. 2009)."""
MIN_DEPTH = 100
"""Minimum number of ranks per route that are fused."""
DEEPENING = 4
"""Factor on the depth of the next search when too few hits are distinct."""


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
        """Number of ranks of the first search."""
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
    """The thread that runs all searches."""

    def __init__(self, items: ItemStore, work: WorkMetrics) -> None:
        self._items = items
        self._work = work
        self._batcher: Batcher[SearchPlan, list[Hit]] = Batcher(self._run, max_size=MAX_BATCH, name="search")

    def submit(self, plan: SearchPlan) -> "Future[list[Hit]]":
        """The future hits of a plan."""
        (hits,) = self._batcher.submit([plan])
        return hits

    def waiting(self) -> int:
        """Number of plans that no search has taken yet."""
        return self._batcher.waiting()

    def close(self) -> None:
        """Answer waiting plans, then end the thread."""
        self._batcher.close()

    def _run(self, plans: Sequence[SearchPlan]) -> list[list[Hit]]:
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
    """(number, sum of 1 / (60 + rank)) over all routes, best first; equal sums in order of their numbers."""
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
