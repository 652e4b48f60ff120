"""Questions to hits, in one thread: those that arrive together share the index's searches and a read of the store."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from dermnote_contracts.retrieval import Distinct, Exclude, Hit, Route, Via
from dermnote_retrieval.encoder.protocol import Vectors
from dermnote_retrieval.index.together import Query, search_together
from dermnote_retrieval.index.types import Found, Selection
from dermnote_retrieval.ingest.writer import Serving
from dermnote_retrieval.query.duplicates import Kept, Look, fold, mark
from dermnote_retrieval.runtime.batching import Batcher
from dermnote_retrieval.runtime.timing import Steps
from dermnote_retrieval.runtime.work import Work
from dermnote_retrieval.store.items import ItemStore, StoredItem

MOST = 64
RANK_CONSTANT = 60
"""k of reciprocal rank fusion (Cormack et al. 2009)."""
MIN_DEPTH = 100
"""Ranks of each route that are joined, at least."""
DEEPER = 4
"""How much deeper the next search goes where too few hits are distinct."""


@dataclass(frozen=True)
class Scope:
    """Which items may be found, how many, and by which route."""

    k: int = 10
    via: Via = "fused"
    filter: Mapping[str, Any] | None = None
    exclude: Exclude = field(default_factory=Exclude)
    distinct: Distinct | None = None

    @property
    def everything(self) -> bool:
        """Whether every item may be found."""
        return not self.filter and not self.exclude.ids and not self.exclude.groups


@dataclass(frozen=True, eq=False)
class Question:
    """All that a search needs. `queries`: a vector [dim] for each route to be searched."""

    serving: Serving
    queries: Mapping[Route, Vectors]
    scope: Scope
    among: Selection
    steps: Steps
    asked_at: float = field(default_factory=time.perf_counter)

    @property
    def depth(self) -> int:
        """Ranks to look at first."""
        return self.scope.k if len(self.queries) == 1 else max(MIN_DEPTH, 4 * self.scope.k)


@dataclass(frozen=True)
class Ranked:
    """What a question's routes found, and what is left of it as hits."""

    kept: Sequence[Kept]
    found: Mapping[Route, Found]


class Answering:
    """The thread in which all searches run, whoever asks."""

    def __init__(self, items: ItemStore, work: Work) -> None:
        self._items = items
        self._work = work
        self._batcher: Batcher[Question, list[Hit]] = Batcher(self._answer, most=MOST, name="search")

    def __call__(self, question: Question) -> "Future[list[Hit]]":
        """Its hits, once it is its turn."""
        (answer,) = self._batcher.submit([question])
        return answer

    def waiting(self) -> int:
        """Questions that no search has taken yet."""
        return self._batcher.waiting()

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        self._batcher.close()

    def _answer(self, questions: Sequence[Question]) -> list[list[Hit]]:
        ranked = self._ranked(questions)
        for question in questions:
            question.steps.ended("search", since=question.asked_at)
        begun = time.perf_counter()
        held = self._items.by_number(list({one.number for each in ranked for one in each.kept}))
        hits = [_hits(held, question.serving, each) for question, each in zip(questions, ranked, strict=True)]
        for question in questions:
            question.steps.ended("fetch", since=begun)
        return hits

    def _ranked(self, questions: Sequence[Question]) -> list[Ranked]:
        """For each its hits. Deeper and deeper where too few of what is found is distinct."""
        ranked: dict[int, Ranked] = {}
        depths = {place: question.depth for place, question in enumerate(questions)}
        while depths:
            asked = {
                (place, route): Query(questions[place].serving.indexes[route], vector, depth, questions[place].among)
                for place, depth in depths.items()
                for route, vector in questions[place].queries.items()
            }
            with self._work.one("search", size=len(asked)):
                found = dict(zip(asked, search_together(list(asked.values())), strict=True))
            deeper: dict[int, int] = {}
            for place, depth in depths.items():
                of_routes = {route: found[place, route] for route in questions[place].queries}
                kept = self._kept(of_routes, questions[place].scope, depth=depth)
                if kept is None:
                    deeper[place] = depth * DEEPER
                else:
                    ranked[place] = Ranked(kept, of_routes)
            depths = deeper
        return [ranked[place] for place in range(len(questions))]

    def _kept(self, found: Mapping[Route, Found], scope: Scope, *, depth: int) -> list[Kept] | None:
        """The hits of what was found at a depth; None where there may be more distinct ones further down."""
        scores = next(iter(found.values())) if len(found) == 1 else reciprocal_rank(found)
        if scope.distinct is None:
            return [Kept(number, score, folded=0) for number, score in scores[: scope.k]]
        keys = self._items.keys([number for number, _ in scores], distinct=scope.distinct)
        kept = fold(scores, keys, k=scope.k)
        exhausted = all(len(ranked) < depth for ranked in found.values())
        return kept if exhausted or len(kept) == scope.k else None


def reciprocal_rank(found: Mapping[Route, Found]) -> Found:
    """(number, sum of 1 / (60 + rank)) over all routes, best first; equal sums in the order of their numbers."""
    sums: dict[int, float] = {}
    for ranked in found.values():
        for rank, (number, _) in enumerate(ranked, start=1):
            sums[number] = sums.get(number, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(sums.items(), key=lambda entry: (-entry[1], entry[0]))


def _hits(held: Mapping[int, StoredItem], serving: Serving, ranked: Ranked) -> list[Hit]:
    """Hits with their items' contents; an item that was deleted since the index was read is left out."""
    ranks = {
        route: {number: place for place, (number, _) in enumerate(found, start=1)}
        for route, found in ranked.found.items()
    }
    present = [(held[one.number], one) for one in ranked.kept if one.number in held]
    pictures = serving.indexes["images"].vectors([item.number for item, _ in present])
    marks = mark([Look(i.note_digest, i.signs, v) for (i, _), v in zip(present, pictures, strict=True)])
    return [
        Hit(
            id=item.id,
            score=one.score,
            rank=rank,
            ranks={route: places[item.number] for route, places in ranks.items() if item.number in places},
            note=item.note,
            metadata=item.metadata,
            group=item.group,
            image=image_link(item.id) if item.has_image else None,
            duplicate_of=None if better is None else present[better][0].id,
            folded=one.folded,
        )
        for rank, ((item, one), better) in enumerate(zip(present, marks, strict=True), start=1)
    ]


def image_link(item_id: str) -> str:
    """Where an item's thumbnail is, relative to the service."""
    return f"/items/{item_id}/image"
