"""A query to ranked hits: choose the routes, make the query's vectors, search among the allowed items, join the ranks.

A query with an image or a text reaches the other kind's vectors only through an aligned encoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from dermnote_contracts.problems import EncoderNotAligned, InvalidRequest, UnknownItem
from dermnote_contracts.retrieval import Distinct, Exclude, Hit, Route, SearchResponse, Via
from dermnote_retrieval.catalogue import Catalogue, Serving
from dermnote_retrieval.duplicates import Kept, Look, fold, mark
from dermnote_retrieval.encoder.protocol import Vectors, unit_rows
from dermnote_retrieval.index.results import Found, Selection
from dermnote_retrieval.search_queue import Query, SearchQueue
from dermnote_retrieval.selecting import Selecting
from dermnote_retrieval.store.items import ItemStore
from dermnote_retrieval.timing import Steps

RANK_CONSTANT = 60
"""k of reciprocal rank fusion (Cormack et al. 2009)."""
MIN_DEPTH = 100
"""Ranks of each route that are joined, at least."""
DEEPER = 4
"""How much deeper the next search goes where too few hits are distinct."""

Ranked = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Scope:
    """Which items may be found, how many, and by which route."""

    k: int = 10
    via: Via = "fused"
    filter: Mapping[str, Any] | None = None
    exclude: Exclude = field(default_factory=Exclude)
    distinct: Distinct | None = None


class Search:
    """Searches what the catalogue serves at the moment that a query comes in."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._selecting = Selecting(catalogue.items, lambda: catalogue.state)
        self._queue = SearchQueue(catalogue.work)

    def close(self) -> None:
        """End the thread that searches."""
        self._queue.close()

    def waiting(self) -> int:
        """Queries that no search has taken yet."""
        return self._queue.waiting()

    def by_image(self, image: Image.Image, scope: Scope, *, steps: Steps) -> SearchResponse:
        """Similar images, and notes if the encoder is aligned. `image`: RGB."""
        serving = self._catalogue.serving
        routes = _routes(scope.via, own="images", aligned=serving.encoder.manifest.aligned)
        with steps.step("encode"):
            vector = _usable(serving.encoder.encode_images([image]), of="image")
        return self._answer(serving, dict.fromkeys(routes, vector), scope, steps=steps)

    def by_text(self, text: str, scope: Scope, *, steps: Steps) -> SearchResponse:
        """Similar notes, and images if the encoder is aligned."""
        if not text.strip():
            raise InvalidRequest("text: must not be blank")
        serving = self._catalogue.serving
        routes = _routes(scope.via, own="notes", aligned=serving.encoder.manifest.aligned)
        with steps.step("encode"):
            vector = _usable(serving.encoder.encode_texts([text]), of="text")
        return self._answer(serving, dict.fromkeys(routes, vector), scope, steps=steps)

    def by_vector(self, values: Sequence[float], scope: Scope, *, steps: Steps) -> SearchResponse:
        """Nearest to a vector of the served model, on the routes that have its width."""
        serving = self._catalogue.serving
        routes = _routes_of_width(serving, width=len(values), via=scope.via)
        vector = _usable(unit_rows(np.asarray([values], dtype=np.float64)), of="vector")
        return self._answer(serving, dict.fromkeys(routes, vector), scope, steps=steps)

    def by_item(self, item_id: str, scope: Scope, *, steps: Steps) -> SearchResponse:
        """Like a stored item, by its own vectors; never the item itself."""
        serving = self._catalogue.serving
        item = self._catalogue.items.get(item_id)
        if item is None:
            raise UnknownItem()
        exclude = Exclude(ids=[*scope.exclude.ids, item_id], groups=scope.exclude.groups)
        others = replace(scope, exclude=exclude)
        return self._answer(serving, _vectors_of(serving, item.number, via=scope.via), others, steps=steps)

    def _answer(
        self, serving: Serving, queries: Mapping[Route, Vectors], scope: Scope, *, steps: Steps
    ) -> SearchResponse:
        with steps.step("filter"):
            among = self._selecting.selection(scope.filter, scope.exclude)
        with steps.step("search"):
            kept, found = self._kept(serving, queries, scope, among=among)
        with steps.step("fetch"):
            hits = _hits(self._catalogue.items, serving, kept, found)
        self._catalogue.check_epoch(serving)
        return SearchResponse(
            hits=hits,
            model=serving.model_id,
            routes=list(queries),
            took_ms=steps.total_ms,
            timings_ms=dict(steps.ms),
        )

    def _kept(
        self, serving: Serving, queries: Mapping[Route, Vectors], scope: Scope, *, among: Selection
    ) -> tuple[list[Kept], dict[Route, Found]]:
        """(the hits, what each route found). Deeper and deeper where too few of what is found is distinct."""
        depth = scope.k if len(queries) == 1 else max(MIN_DEPTH, 4 * scope.k)
        while True:
            asked = [Query(serving.indexes[route], vector, depth, among) for route, vector in queries.items()]
            found = dict(zip(queries, self._queue(asked), strict=True))
            scores = next(iter(found.values())) if len(found) == 1 else reciprocal_rank(found)
            if scope.distinct is None:
                return [Kept(number, score, folded=0) for number, score in scores[: scope.k]], found
            keys = self._catalogue.items.keys([number for number, _ in scores], distinct=scope.distinct)
            kept = fold(scores, keys, k=scope.k)
            if len(kept) == scope.k or all(len(ranked) < depth for ranked in found.values()):
                return kept, found
            depth *= DEEPER


def reciprocal_rank(found: Mapping[Route, Ranked]) -> Ranked:
    """(number, sum of 1 / (60 + rank)) over all routes, best first; equal sums in the order of their numbers."""
    sums: dict[int, float] = {}
    for ranked in found.values():
        for rank, (number, _) in enumerate(ranked, start=1):
            sums[number] = sums.get(number, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(sums.items(), key=lambda entry: (-entry[1], entry[0]))


def _routes(via: Via, *, own: Route, aligned: bool) -> list[Route]:
    """The routes that a query of the kind `own` may take."""
    if via == "fused":
        return ["notes", "images"] if aligned else [own]
    if via != own and not aligned:
        raise EncoderNotAligned(f"this query reaches {own} only; train a model and activate it, or use via={own}")
    return [via]


def _routes_of_width(serving: Serving, *, width: int, via: Via) -> list[Route]:
    """The routes whose vectors have the width; while towers are not aligned, fused means one space: images first."""
    wanted: list[Route] = ["images", "notes"] if via == "fused" else [via]
    fitting = [route for route in wanted if serving.indexes[route].dim == width]
    if not fitting:
        widths = ", ".join(f"{route} {serving.indexes[route].dim}" for route in wanted)
        raise InvalidRequest(f"the vector has {width} values; the model's widths are: {widths}")
    return fitting if serving.encoder.manifest.aligned else fitting[:1]


def _vectors_of(serving: Serving, number: int, *, via: Via) -> dict[Route, Vectors]:
    """An item's query vector for each route: its own of that route, else, if aligned, its other one."""
    indexes, aligned = serving.indexes, serving.encoder.manifest.aligned
    own = {route: vector for route in indexes if (vector := indexes[route].vector(number)) is not None}
    if not own:
        raise InvalidRequest("the item has neither note nor image to search with")
    wanted: list[Route] = ["notes", "images"] if via == "fused" else [via]
    queries = {r: own[r] if r in own else next(iter(own.values())) for r in wanted if r in own or aligned}
    if not queries:
        raise EncoderNotAligned(f"the item can be compared by {', '.join(own)} only")
    return queries


def _usable(rows: Vectors, *, of: str) -> Vectors:
    if not np.isfinite(rows).all():
        raise InvalidRequest(f"the {of} gives no direction to search in")
    row: Vectors = rows[0]
    return row


def _hits(items: ItemStore, serving: Serving, kept: Sequence[Kept], found: Mapping[Route, Ranked]) -> list[Hit]:
    """Hits with their items' contents; an item that was deleted since the index was read is left out."""
    ranks = {route: {number: place for place, (number, _) in enumerate(r, start=1)} for route, r in found.items()}
    held = items.by_number([one.number for one in kept])
    present = [(held[one.number], one) for one in kept if one.number in held]
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
