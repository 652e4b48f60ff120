"""A query to a question: the routes, a vector for each, the items that may be found. And a question to its answer.

A query with an image or a text reaches the other kind's vectors only through an aligned encoder.
"""

from asyncio import wrap_future
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from dermnote_contracts.problems import EncoderNotAligned, InvalidRequest, Unavailable, UnknownItem
from dermnote_contracts.retrieval import Exclude, Route, SearchResponse, Via
from dermnote_retrieval.encoder.protocol import Vectors, unit_rows
from dermnote_retrieval.ingest.writer import Catalogue, Serving
from dermnote_retrieval.query.executor import Answering, Question, Scope
from dermnote_retrieval.query.filter_cache import Selecting
from dermnote_retrieval.runtime.timing import Steps


class Search:
    """Searches what the catalogue serves at the moment that a query comes in."""

    def __init__(self, catalogue: Catalogue, *, max_waiting: int) -> None:
        self._catalogue = catalogue
        self._max_waiting = max_waiting
        self._selecting = Selecting(catalogue.items, lambda: catalogue.state)
        self._answering = Answering(catalogue.items, catalogue.work)

    def close(self) -> None:
        """End the thread that searches."""
        self._answering.close()

    def waiting(self) -> int:
        """Questions that no search has taken yet."""
        return self._answering.waiting()

    def by_image(self, image: Image.Image, scope: Scope, *, steps: Steps) -> Question:
        """Similar images, and notes if the encoder is aligned. `image`: RGB. Blocks while it is encoded."""
        serving = self._catalogue.serving
        routes = _routes(scope.via, own="images", aligned=serving.encoder.manifest.aligned)
        with steps.step("encode"):
            vector = _usable(serving.encoder.encode_images([image]), of="image")
        return self._question(serving, dict.fromkeys(routes, vector), scope, steps=steps)

    def by_text(self, text: str, scope: Scope, *, steps: Steps) -> Question:
        """Similar notes, and images if the encoder is aligned. Blocks while it is encoded."""
        if not text.strip():
            raise InvalidRequest("text: must not be blank")
        serving = self._catalogue.serving
        routes = _routes(scope.via, own="notes", aligned=serving.encoder.manifest.aligned)
        with steps.step("encode"):
            vector = _usable(serving.encoder.encode_texts([text]), of="text")
        return self._question(serving, dict.fromkeys(routes, vector), scope, steps=steps)

    def by_vector(self, values: Sequence[float], scope: Scope, *, steps: Steps) -> Question:
        """Nearest to a vector of the served model, on the routes that have its width. Blocks for a filter only."""
        serving = self._catalogue.serving
        routes = _routes_of_width(serving, width=len(values), via=scope.via)
        vector = _usable(unit_rows(np.asarray([values], dtype=np.float64)), of="vector")
        return self._question(serving, dict.fromkeys(routes, vector), scope, steps=steps)

    def by_item(self, item_id: str, scope: Scope, *, steps: Steps) -> Question:
        """Like a stored item, by its own vectors; never the item itself. Blocks while the store is read."""
        serving = self._catalogue.serving
        item = self._catalogue.items.get(item_id)
        if item is None:
            raise UnknownItem()
        exclude = Exclude(ids=[*scope.exclude.ids, item_id], groups=scope.exclude.groups)
        others = replace(scope, exclude=exclude)
        return self._question(serving, _vectors_of(serving, item.number, via=scope.via), others, steps=steps)

    def _question(self, serving: Serving, queries: Mapping[Route, Vectors], scope: Scope, *, steps: Steps) -> Question:
        with steps.step("filter"):
            among = self._selecting.selection(scope.filter, scope.exclude)
        return Question(serving, queries, scope, among, steps)

    async def answer(self, question: Question) -> SearchResponse:
        """Its hits, searched for together with what else is asked now. Raises Unavailable where too many wait."""
        if self._answering.waiting() >= self._max_waiting:
            raise Unavailable("too many requests are waiting", retry_after_s=1)
        hits = await wrap_future(self._answering(question))
        self._catalogue.check_epoch(question.serving)
        return SearchResponse(
            hits=hits,
            model=question.serving.model_id,
            routes=list(question.queries),
            took_ms=question.steps.total_ms,
            timings_ms=question.steps.ms,
        )


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
