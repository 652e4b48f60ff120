"""Searches and encodings that arrive together share calls; cached filters are dropped at a write."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dermnote_contracts.manifest import ModelManifest
from dermnote_contracts.problems import FilterRefused
from dermnote_contracts.retrieval import Exclude
from dermnote_retrieval.encoder.base import Encoder, Vectors
from dermnote_retrieval.encoder.dummy import DummyModels
from dermnote_retrieval.index.adaptive import AdaptiveIndex, Limits
from dermnote_retrieval.index.exact import EVERYTHING, Neighbours, Selection
from dermnote_retrieval.query.executor import IndexQuery, Scope, search_together
from dermnote_retrieval.query.filters import FilterCache
from dermnote_retrieval.runtime.metrics import StepTimer

WAIT_S = 10
CLIENTS = 12


class SlowFirst:
    """An encoder that records its batch sizes; its first call waits until all others have arrived."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.sizes: list[int] = []
        self.entered = threading.Event()
        self.proceed = threading.Event()

    @property
    def manifest(self) -> ModelManifest:
        return self._encoder.manifest

    def fit(self, image: Image.Image) -> Image.Image:
        return self._encoder.fit(image)

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        self.sizes.append(len(images))
        self.entered.set()
        assert self.proceed.wait(WAIT_S)
        return self._encoder.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return self._encoder.encode_texts(texts)

    def close(self) -> None:
        self._encoder.close()


class SlowFirstModels(DummyModels):
    """The dummies, with a slow first call."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[SlowFirst] = []

    def load(self, name: str) -> Encoder:
        self.made.append(SlowFirst(super().load(name)))
        return self.made[-1]


def test_concurrent_images_are_encoded_together(run: Any, paint: Any) -> None:
    source = SlowFirstModels()
    with run(source=source, workers=CLIENTS) as client, ThreadPoolExecutor(CLIENTS) as pool:
        (encoder,) = source.made

        def ask(_: int) -> int:
            answer = client.post("/search", files={"image": paint()})
            return int(answer.status_code)

        first = pool.submit(ask, 0)
        assert encoder.entered.wait(WAIT_S)
        others = [pool.submit(ask, number) for number in range(1, CLIENTS)]
        while len(encoder.sizes) == 1 and not encoder.proceed.is_set():
            if client.app.state.service.writer.served.encoder._images.waiting() == CLIENTS - 1:
                encoder.proceed.set()

        assert [one.result(WAIT_S) for one in [first, *others]] == [200] * CLIENTS
    assert encoder.sizes == [1, CLIENTS - 1]


class Gated(AdaptiveIndex):
    """An index that records its calls; the first one waits for an event."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(vectors.shape[1], Limits())
        self.replace(removed=[], numbers=list(range(1, len(vectors) + 1)), vectors=vectors)
        self.calls: list[tuple[int, int]] = []
        self.entered = threading.Event()
        self.proceed = threading.Event()

    def search(self, vectors: Vectors, *, k: int, selection: Selection = EVERYTHING) -> list[Neighbours]:
        self.calls.append((len(vectors), k))
        self.entered.set()
        assert self.proceed.wait(WAIT_S)
        return super().search(vectors, k=k, selection=selection)


def test_searches_with_the_same_selection_share_a_call_and_keep_their_own_k() -> None:
    vectors = np.eye(8, dtype=np.float32)
    index, half = Gated(vectors), Selection(allowed=np.arange(5, 9))
    index.proceed.set()

    results = search_together(
        [
            *(IndexQuery(index, vectors[place], place + 1, Selection()) for place in (1, 2, 3)),
            *(IndexQuery(index, vectors[place], 2, half) for place in (4, 5)),
        ]
    )

    assert [(one[0][0], len(one)) for one in results] == [(2, 2), (3, 3), (4, 4), (5, 2), (6, 2)]
    assert index.calls == [(3, 4), (2, 2)]


@pytest.fixture
def gated(serve: Any, put: Any) -> Any:
    """A client of a service with the notes of eight items, whose first search of notes waits."""
    client = serve(max_waiting=3)
    for place in range(1, 9):
        put(client, f"i{place}", note=f"lesion {place}")
    writer = client.app.state.service.writer
    index = Gated(np.eye(8, writer.served.indexes["notes"].dim, dtype=np.float32))
    writer.served = replace(writer.served, indexes={**writer.served.indexes, "notes": index})
    client.index = index
    yield client
    index.proceed.set()


def ask(client: Any, place: int) -> Any:
    vector = client.index.vector(place).tolist()
    return client.post("/search", json={"vector": vector, "via": "notes", "k": 1})


def waiting_for(search: Any, count: int) -> None:
    ends = time.monotonic() + WAIT_S
    while search.waiting() != count:
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_searches_that_arrive_during_another_share_a_call_and_too_many_are_rejected(
    gated: Any,
) -> None:
    search = gated.app.state.service.search
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, gated, 1)
        assert gated.index.entered.wait(WAIT_S)
        others = [pool.submit(ask, gated, place) for place in (2, 3, 4)]
        waiting_for(search, 3)

        refused = ask(gated, 5)
        gated.index.proceed.set()

        answers = [one.result(WAIT_S).json() for one in (first, *others)]
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "unavailable", "1")
    assert [[hit["id"] for hit in answer["hits"]] for answer in answers] == [["i1"], ["i2"], ["i3"], ["i4"]]
    assert gated.index.calls == [(1, 1), (3, 1)]


def test_a_cancelled_search_is_skipped_and_the_others_are_answered(gated: Any) -> None:
    search = gated.app.state.service.search

    async def cancel_some() -> list[Any]:
        def start_search(place: int) -> asyncio.Task[Any]:
            vector = gated.index.vector(place).tolist()
            return asyncio.ensure_future(
                search.answer(search.by_vector(vector, Scope(k=1, via="notes"), timer=StepTimer()))
            )

        first = start_search(1)
        await asyncio.to_thread(gated.index.entered.wait, WAIT_S)
        others = [start_search(place) for place in (2, 3, 4)]
        await asyncio.to_thread(waiting_for, search, 3)
        first.cancel()  # its search has begun, and is thrown away
        others[1].cancel()
        await asyncio.sleep(0)
        gated.index.proceed.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    came = asyncio.run(cancel_some())

    assert [isinstance(one, asyncio.CancelledError) for one in came] == [True, False, True, False]
    assert [one.hits[0].id for one in (came[1], came[3])] == ["i2", "i4"]
    assert gated.index.calls == [(1, 1), (2, 1)]
    assert ask(gated, 5).status_code == 200


def test_the_result_of_a_filter_is_cached_until_the_next_write(client: Any, put: Any) -> None:
    writer = client.app.state.service.writer
    filters = FilterCache(writer.items, lambda: writer.version)
    put(client, "a", note="one", metadata={"age": 40})
    spec = {"age": {"gte": 30}}

    before = filters.selection(spec, Exclude())
    assert filters.selection({"age": {"gte": 30}}, Exclude()) is before
    put(client, "b", note="two", metadata={"age": 50})
    after = filters.selection(spec, Exclude())

    assert [len(one.allowed) for one in (before, after) if one.allowed is not None] == [1, 2]
    client.delete("/items/a")
    (left,) = [len(one.allowed) for one in [filters.selection(spec, Exclude())] if one.allowed is not None]
    assert left == 1


def test_a_cached_filter_is_combined_with_the_exclusion_of_each_query(client: Any, put: Any) -> None:
    for name in "abc":
        put(client, name, note=f"a red lesion {name}", metadata={"sex": "male"}, group=name)

    def found(exclude: dict[str, Any]) -> list[str]:
        body = {"text": "red", "filter": {"sex": "male"}, "exclude": exclude}
        return sorted(hit["id"] for hit in client.post("/search", json=body).json()["hits"])

    assert found({}) == ["a", "b", "c"]
    assert found({"ids": ["a"]}) == ["b", "c"]
    assert found({"groups": ["b"]}) == ["a", "c"]
    assert found({}) == ["a", "b", "c"]


def test_an_invalid_filter_is_never_cached(client: Any) -> None:
    writer = client.app.state.service.writer
    filters = FilterCache(writer.items, lambda: writer.version)

    for _ in range(2):
        with pytest.raises(FilterRefused):
            filters.selection({"age": {"above": 3}}, Exclude())
    assert not filters._cached
