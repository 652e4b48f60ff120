"""Which model is served: choice at start, rejection of another model's vectors, re-embedding while serving."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dermnote_contracts.manifest import ModelManifest
from dermnote_contracts.problems import ModelMismatch, ModelRefused, StartRefused
from dermnote_retrieval.encoder.base import Encoder
from dermnote_retrieval.encoder.dummy import DummyEncoder, DummyModels
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings


class GatedModels(DummyModels):
    """The dummies, except that `dummy-aligned` waits at a gate before it encodes notes, and may fail to load."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.arrived, self.gate, self.fails = threading.Event(), threading.Event(), fails

    def load(self, name: str) -> Encoder:
        if name != "dummy-aligned":
            return super().load(name)
        if self.fails:
            raise ModelRefused("its weights are missing")
        return GatedEncoder(self.manifest(name), self)


class GatedEncoder(DummyEncoder):
    def __init__(self, manifest: ModelManifest, models: GatedModels) -> None:
        super().__init__(manifest)
        self._models = models

    def encode_texts(self, texts: Any) -> Any:
        self._models.arrived.set()
        assert self._models.gate.wait(timeout=30)
        return super().encode_texts(texts)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the store from outside; changes are committed."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.01)


def active(client: Any) -> str:
    return next(model["name"] for model in client.get("/models").json() if model["active"])


def reembedding(client: Any) -> float | None:
    return next(model["reembedding"] for model in client.get("/models").json() if model["name"] == "dummy-aligned")


@pytest.fixture
def models() -> GatedModels:
    return GatedModels()


def test_the_old_model_serves_until_the_new_one_is_ready(serve: Any, put: Any, paint: Any, models: GatedModels) -> None:
    client = serve(source=models)
    for colour in ("red", "green", "blue"):
        put(client, colour, image=paint(colour), note=f"{colour} lesion")

    answer = client.put("/models/active", json={"name": "dummy-aligned"})
    assert (answer.status_code, answer.json()["name"], answer.json()["active"]) == (202, "dummy-aligned", False)
    assert models.arrived.wait(30)
    share = reembedding(client)
    assert share is not None
    assert 0 <= share < 1
    assert client.put("/models/active", json={"name": "dummy-aligned"}).status_code == 202
    assert client.put("/models/active", json={"name": "dummy"}).json()["code"] == "conflict"
    # Writes of every kind during the re-embedding: the new index must hold the final content.
    put(client, "red", image=paint("yellow"), note="yellow lesion")
    put(client, "black", image=paint("black"), note="black lesion")
    client.delete("/items/green")
    assert client.post("/search", json={"text": "black lesion", "k": 1}).json()["model"] == "dummy-1"

    models.gate.set()
    until(lambda: active(client) == "dummy-aligned")
    assert reembedding(client) is None
    index = client.get("/index").json()
    assert (index["model"], index["aligned"]) == ("dummy-aligned-1", True)
    assert {name: (route["dim"], route["vectors"]) for name, route in index["routes"].items()} == {
        "notes": (64, 3),
        "images": (64, 3),
    }
    for query, expected in (("yellow", "red"), ("black", "black"), ("blue", "blue")):
        hits = client.post("/search", json={"text": query, "via": "images"}).json()["hits"]
        assert (hits[0]["id"], len(hits)) == (expected, 3)
    assert client.get("/health/ready").status_code == 200
    assert client.put("/models/active", json={"name": "dummy-aligned"}).status_code == 200


def test_re_embedding_gives_identical_vectors(serve: Any, put: Any, paint: Any, tmp_path: Path) -> None:
    def vectors() -> list[Any]:
        with opened(tmp_path / "data/store.sqlite3") as connection:
            return connection.execute("select item, route, vector from vectors order by item, route").fetchall()

    client = serve()
    put(client, "a", image=paint("brown", size=(900, 500)), note="brown")
    first = vectors()
    for name in ("dummy-aligned", "dummy"):
        client.put("/models/active", json={"name": name})
        until(lambda name=name: active(client) == name)  # type: ignore[misc]
    assert vectors() == first


def test_re_embedding_resumes_after_the_process_is_killed(
    run: Any, serve: Any, put: Any, models: GatedModels, tmp_path: Path
) -> None:
    with run(source=models) as client:
        put(client, "a", note="red lesion")
        client.put("/models/active", json={"name": "dummy-aligned"})
        assert models.arrived.wait(30)
        # What a kill -9 would leave at this moment.
        (tmp_path / "left").mkdir()
        with opened(tmp_path / "data/store.sqlite3") as held, opened(tmp_path / "left/store.sqlite3") as left:
            held.backup(left)
        models.gate.set()

    client = serve(data_dir=tmp_path / "left")
    until(lambda: active(client) == "dummy-aligned")
    hits = client.post("/search", json={"text": "red", "k": 1}).json()["hits"]
    assert [hit["id"] for hit in hits] == ["a"]


def test_a_failed_re_embedding_leaves_the_old_model(serve: Any, put: Any) -> None:
    client = serve(source=GatedModels(fails=True))
    put(client, "a", note="n")

    assert client.put("/models/active", json={"name": "dummy-aligned"}).status_code == 202
    until(lambda: reembedding(client) is None)
    assert active(client) == "dummy"
    assert client.post("/search", json={"text": "n"}).json()["hits"][0]["id"] == "a"
    assert client.put("/models/active", json={"name": "dummy"}).status_code == 200


@pytest.mark.parametrize("name", ["nobody", "..", "."])
def test_an_unknown_model_is_404(client: Any, name: str) -> None:
    answer = client.put("/models/active", json={"name": name})

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-model")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"name": "a/b"}', b'{"name": "x", "y": 1}', b'{"\\ud800": 1}', b"[" * 9999]
)
def test_an_invalid_activation_is_422(client: Any, body: bytes) -> None:
    answer = client.put("/models/active", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


def test_a_store_of_another_model_prevents_the_start(run: Any, put: Any, tmp_path: Path) -> None:
    with run() as client:
        put(client, "a", note="n")

    with pytest.raises(ModelMismatch, match=r"holds vectors of dummy \(dummy-1\).*dummy-aligned-1.*REEMBED_AT_START"):
        open_service(Settings(data_dir=tmp_path / "data", encoder="dummy", model="dummy-aligned"))
    with run(model="dummy") as client:
        assert client.get("/items/a").status_code == 200


def test_a_store_of_another_model_is_re_embedded_at_start_if_set(run: Any, serve: Any, put: Any, paint: Any) -> None:
    with run() as client:
        put(client, "a", note="red", image=paint())

    client = serve(model="dummy-aligned", reembed_at_start=True)
    assert active(client) == "dummy-aligned"
    assert client.post("/search", json={"text": "red", "via": "images"}).json()["hits"][0]["id"] == "a"


def test_the_stores_model_is_served_by_default(run: Any, serve: Any, put: Any) -> None:
    with run(model="dummy-aligned") as client:
        put(client, "a", note="n")

    assert active(serve()) == "dummy-aligned"


def test_an_empty_store_accepts_any_model(run: Any) -> None:
    for name in ("dummy", "dummy-aligned", "dummy"):
        with run(model=name) as client:
            assert active(client) == name


def test_items_survive_a_restart_with_their_vectors(run: Any, serve: Any, put: Any, paint: Any) -> None:
    with run() as client:
        put(client, "a", note="red one", image=paint("red"))
        put(client, "b", note="blue one", image=paint("blue"))
        before = client.post("/search", files={"image": paint("blue")}).json()["hits"]

    assert serve().post("/search", files={"image": paint("blue")}).json()["hits"] == before


def test_a_missing_vector_is_computed_at_start(run: Any, serve: Any, put: Any, tmp_path: Path) -> None:
    with run() as client:
        put(client, "a", note="red one")
    with opened(tmp_path / "data/store.sqlite3") as connection:
        connection.execute("delete from vectors")

    client = serve()
    assert client.post("/search", json={"text": "red"}).json()["hits"][0]["id"] == "a"
    assert client.get("/health/ready").status_code == 200


def test_readiness_fails_if_the_index_differs_from_the_store(client: Any, put: Any, tmp_path: Path) -> None:
    put(client, "a", note="n")
    with opened(tmp_path / "data/store.sqlite3") as connection:
        connection.execute("delete from vectors")

    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert client.get("/health/live").status_code == 200


def test_a_second_process_cannot_open_the_same_store(client: Any, tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="another process serves"):
        open_service(Settings(data_dir=tmp_path / "data", encoder="dummy"))


def test_a_file_that_is_not_a_store_prevents_the_start(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/store.sqlite3").write_bytes(b"this is no database" * 100)

    with pytest.raises(StartRefused, match="cannot be opened as a store"):
        open_service(Settings(data_dir=tmp_path / "data", encoder="dummy"))


def test_a_store_with_a_newer_schema_prevents_the_start(run: Any, tmp_path: Path) -> None:
    with run():
        pass
    with opened(tmp_path / "data/store.sqlite3") as connection:
        connection.execute("pragma user_version = 99")

    with pytest.raises(StartRefused, match="schema 99"):
        open_service(Settings(data_dir=tmp_path / "data", encoder="dummy"))
