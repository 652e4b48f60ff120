"""Turns requests into search plans (routes, a vector for each, the selected items), and plans into responses.

An image or a text is compared with vectors of the other kind only if the encoder is aligned.
"""

from asyncio import wrap_future
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dermnote_contracts.problems import EncoderNotAligned, InvalidRequest, Unavailable, UnknownItem
from dermnote_contracts.retrieval import Exclude, Hit, Route, SearchResponse, Via
from dermnote_imaging.decoder import RgbImage
from dermnote_retrieval.encoder.base import Encoder, Vectors, unit_rows
from dermnote_retrieval.ingest.writer import ItemWriter, ServedModel
from dermnote_retrieval.query.executor import QueryExecutor, Scope, SearchPlan
from dermnote_retrieval.query.filters import FilterCache
from dermnote_retrieval.runtime.batching import Batcher
from dermnote_retrieval.runtime.metrics import StepTimer

MAX_BATCH = 64


class Search:
    """Searches with the model that is served when the request arrives."""

    def __init__(self, writer: ItemWriter, *, max_waiting: int) -> None:
        self._writer = writer
        self._max_waiting = max_waiting
        self._filters = FilterCache(writer.items, lambda: writer.version)
        executor = QueryExecutor(writer.items, writer.work)
        self._batcher: Batcher[SearchPlan, list[Hit]] = Batcher(executor.run, max_size=MAX_BATCH, name="search")

    def close(self) -> None:
        """Answer waiting plans, then end the search thread."""
        self._batcher.close()

    def waiting(self) -> int:
        """Number of plans that no search has taken yet."""
        return self._batcher.waiting()

    def by_image(self, image: RgbImage, scope: Scope, *, timer: StepTimer) -> SearchPlan:
        """Similar images, and notes if the encoder is aligned. Blocks while the image is encoded."""
        return self._encoded("images", lambda encoder: encoder.encode_images([image]), scope, timer=timer)

    def by_text(self, text: str, scope: Scope, *, timer: StepTimer) -> SearchPlan:
        """Similar notes, and images if the encoder is aligned. Blocks while the text is encoded."""
        if not text.strip():
            raise InvalidRequest("text: must not be blank")
        return self._encoded("notes", lambda encoder: encoder.encode_texts([text]), scope, timer=timer)

    def by_vector(self, values: Sequence[float], scope: Scope, *, timer: StepTimer) -> SearchPlan:
        """Items nearest to a vector, on the routes that have its width. Blocks only for a filter or exclusions."""
        served = self._writer.served
        routes = _routes_of_width(served, width=len(values), via=scope.via)
        vector = _usable(unit_rows(np.asarray([values], dtype=np.float64)), of="vector")
        return self._plan(served, dict.fromkeys(routes, vector), scope, timer=timer)

    def by_item(self, item_id: str, scope: Scope, *, timer: StepTimer) -> SearchPlan:
        """Items similar to a stored item, without that item, by its vectors. Blocks while the store is read."""
        served = self._writer.served
        item = self._writer.items.get(item_id)
        if item is None:
            raise UnknownItem()
        exclude = Exclude(ids=[*scope.exclude.ids, item_id], groups=scope.exclude.groups)
        vectors = _vectors_of(served, item.number, via=scope.via)
        return self._plan(served, vectors, replace(scope, exclude=exclude), timer=timer)

    def _encoded(
        self, own: Route, encode: Callable[[Encoder], Vectors], scope: Scope, *, timer: StepTimer
    ) -> SearchPlan:
        served = self._writer.served
        routes = _routes(scope.via, own=own, aligned=served.encoder.manifest.aligned)
        with timer.step("encode"):
            vector = _usable(encode(served.encoder), of="image" if own == "images" else "text")
        return self._plan(served, dict.fromkeys(routes, vector), scope, timer=timer)

    def _plan(
        self, served: ServedModel, vectors: Mapping[Route, Vectors], scope: Scope, *, timer: StepTimer
    ) -> SearchPlan:
        with timer.step("filter"):
            selection = self._filters.selection(scope.filter, scope.exclude)
        return SearchPlan(served, vectors, scope, selection, timer)

    async def answer(self, plan: SearchPlan) -> SearchResponse:
        """The hits of a plan, searched together with other waiting plans. Raises Unavailable if too many wait."""
        if self._batcher.waiting() >= self._max_waiting:
            raise Unavailable("too many requests are waiting", retry_after_s=1)
        (future,) = self._batcher.submit([plan])
        hits = await wrap_future(future)
        self._writer.check_epoch(plan.served)
        return SearchResponse(
            hits=hits,
            model=plan.served.model_id,
            routes=list(plan.vectors),
            took_ms=plan.timer.total_ms,
            timings_ms=plan.timer.ms,
        )


def _routes(via: Via, *, own: Route, aligned: bool) -> list[Route]:
    """The routes to search. `own`: the route whose vectors are of the query's kind (`notes` for a text)."""
    if via == "fused":
        return ["notes", "images"] if aligned else [own]
    if via != own and not aligned:
        raise EncoderNotAligned(
            f"this query can search {own} only: train and activate a model with aligned towers, or use via={own}"
        )
    return [via]


def _routes_of_width(served: ServedModel, *, width: int, via: Via) -> list[Route]:
    """The routes whose vectors have this width; if the towers are not aligned, one route at most, preferably images."""
    candidates: list[Route] = ["images", "notes"] if via == "fused" else [via]
    fitting = [route for route in candidates if served.indexes[route].dim == width]
    if not fitting:
        widths = ", ".join(f"{route} {served.indexes[route].dim}" for route in candidates)
        raise InvalidRequest(f"the vector has {width} values; the model's widths are: {widths}")
    return fitting if served.encoder.manifest.aligned else fitting[:1]


def _vectors_of(served: ServedModel, number: int, *, via: Via) -> dict[Route, Vectors]:
    """An item's query vector for each route: its vector of that route or, if aligned, its vector of the other route."""
    indexes, aligned = served.indexes, served.encoder.manifest.aligned
    own = {route: vector for route in indexes if (vector := indexes[route].vector(number)) is not None}
    if not own:
        raise InvalidRequest("the item has neither note nor image to search with")
    routes: list[Route] = ["notes", "images"] if via == "fused" else [via]
    vectors = {r: own[r] if r in own else next(iter(own.values())) for r in routes if r in own or aligned}
    if not vectors:
        raise EncoderNotAligned(f"for this item use via={', '.join(own)}, or activate an aligned model")
    return vectors


def _usable(rows: Vectors, *, of: str) -> Vectors:
    if not np.isfinite(rows).all():
        raise InvalidRequest(f"cannot search by this {of}: the vector is zero or not finite")
    row: Vectors = rows[0]
    return row
