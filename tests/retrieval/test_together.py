"""Searches and encodings that arrive together share calls, and what a filter let through is forgotten at a write."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dermnote_contracts.manifest import ModelManifest
from dermnote_contracts.problems import FilterRefused
from dermnote_contracts.retrieval import Exclude
from dermnote_retrieval.encoder.dummy import DummyModels
from dermnote_retrieval.encoder.protocol import Encoder, Vectors
from dermnote_retrieval.index.adaptive import AdaptiveIndex, Limits
from dermnote_retrieval.index.results import EVERYTHING, Found, Selection
from dermnote_retrieval.search_queue import Query, SearchQueue
from dermnote_retrieval.selecting import Selecting

WAIT_S = 10
CLIENTS = 12


class SlowFirst:
    """An encoder that notes how many come together; its first call waits until all others have asked."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.sizes: list[int] = []
        self.waits = threading.Event()
        self.go_on = threading.Event()

    @property
    def manifest(self) -> ModelManifest:
        return self._encoder.manifest

    def fit(self, image: Image.Image) -> Image.Image:
        return self._encoder.fit(image)

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        self.sizes.append(len(images))
        self.waits.set()
        assert self.go_on.wait(WAIT_S)
        return self._encoder.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return self._encoder.encode_texts(texts)

    def close(self) -> None:
        self._encoder.close()


class SlowFirstModels(DummyModels):
    """The dummies, one of them slow at first."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[SlowFirst] = []

    def load(self, name: str) -> Encoder:
        self.made.append(SlowFirst(super().load(name)))
        return self.made[-1]


def test_images_that_are_asked_for_at_a_time_are_encoded_together(run: Any, paint: Any) -> None:
    source = SlowFirstModels()
    with run(source=source, workers=CLIENTS) as client, ThreadPoolExecutor(CLIENTS) as pool:
        (encoder,) = source.made

        def ask(_: int) -> int:
            answer = client.post("/search", files={"image": paint()})
            return int(answer.status_code)

        first = pool.submit(ask, 0)
        assert encoder.waits.wait(WAIT_S)
        others = [pool.submit(ask, number) for number in range(1, CLIENTS)]
        while len(encoder.sizes) == 1 and not encoder.go_on.is_set():
            if client.app.state.service.catalogue.serving.encoder._images.waiting() == CLIENTS - 1:
                encoder.go_on.set()

        assert [one.result(WAIT_S) for one in [first, *others]] == [200] * CLIENTS
    assert encoder.sizes == [1, CLIENTS - 1]


class Counted(AdaptiveIndex):
    """An index that notes its calls; the first waits until it is told to go on."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(vectors.shape[1], Limits())
        self.replace(gone=[], numbers=list(range(len(vectors))), vectors=vectors)
        self.calls: list[tuple[int, int]] = []
        self.waits = threading.Event()
        self.go_on = threading.Event()

    def search(self, vectors: Vectors, *, k: int, among: Selection = EVERYTHING) -> list[Found]:
        self.calls.append((len(vectors), k))
        self.waits.set()
        assert self.go_on.wait(WAIT_S)
        return super().search(vectors, k=k, among=among)


def test_searches_with_the_same_selection_go_to_the_index_in_one_call_and_each_gets_its_own_k() -> None:
    vectors = np.eye(8, dtype=np.float32)
    index, queue, half = Counted(vectors), SearchQueue(), Selection(allowed=np.arange(4, 8))
    with ThreadPoolExecutor(8) as pool:

        def ask(place: int, k: int, among: Selection) -> list[int]:
            (found,) = queue([Query(index, vectors[place], k, among)])
            return [found[0][0], len(found)]

        first = pool.submit(ask, 0, 1, EVERYTHING)
        assert index.waits.wait(WAIT_S)
        everything = [pool.submit(ask, place, place + 1, Selection()) for place in (1, 2, 3)]
        filtered = [pool.submit(ask, place, 2, half) for place in (4, 5)]
        while queue.waiting() < 5:
            pass
        index.go_on.set()

        assert first.result(WAIT_S) == [0, 1]
        assert [one.result(WAIT_S) for one in everything] == [[1, 2], [2, 3], [3, 4]]
        assert [one.result(WAIT_S) for one in filtered] == [[4, 2], [5, 2]]
    assert index.calls[0] == (1, 1)
    assert sorted(index.calls[1:]) == [(2, 2), (3, 4)]
    queue.close()


def test_what_a_filter_lets_through_is_kept_until_the_next_write(client: Any, put: Any) -> None:
    catalogue = client.app.state.service.catalogue
    selecting = Selecting(catalogue.items, lambda: catalogue.state)
    put(client, "a", note="one", metadata={"age": 40})
    spec = {"age": {"gte": 30}}

    before = selecting.selection(spec, Exclude())
    assert selecting.selection({"age": {"gte": 30}}, Exclude()) is before
    put(client, "b", note="two", metadata={"age": 50})
    after = selecting.selection(spec, Exclude())

    assert [len(one.allowed) for one in (before, after) if one.allowed is not None] == [1, 2]
    client.delete("/items/a")
    (left,) = [len(one.allowed) for one in [selecting.selection(spec, Exclude())] if one.allowed is not None]
    assert left == 1


def test_a_kept_filter_is_joined_with_each_query_s_own_exclusion(client: Any, put: Any) -> None:
    for name in "abc":
        put(client, name, note=f"a red lesion {name}", metadata={"sex": "male"}, group=name)

    def found(exclude: dict[str, Any]) -> list[str]:
        body = {"text": "red", "filter": {"sex": "male"}, "exclude": exclude}
        return sorted(hit["id"] for hit in client.post("/search", json=body).json()["hits"])

    assert found({}) == ["a", "b", "c"]
    assert found({"ids": ["a"]}) == ["b", "c"]
    assert found({"groups": ["b"]}) == ["a", "c"]
    assert found({}) == ["a", "b", "c"]


def test_a_wrong_filter_is_never_remembered(client: Any) -> None:
    catalogue = client.app.state.service.catalogue
    selecting = Selecting(catalogue.items, lambda: catalogue.state)

    for _ in range(2):
        with pytest.raises(FilterRefused):
            selecting.selection({"age": {"above": 3}}, Exclude())
    assert not selecting._kept
