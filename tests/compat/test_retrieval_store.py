"""A store written by version 0.1.0, with a snapshot and an index checkpoint, gives the same answers as 0.1.0 did.

`retrieval-0.1.0-answers.json` holds requests with the answers of 0.1.0, and the sha256 of stored images and vectors:
for the store as it is, and after its snapshot is restored.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dermnote_retrieval.app import create_app
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "retrieval-0.1.0-answers.json").read_text())


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with tarfile.open(HERE / "retrieval-0.1.0-store.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    settings = Settings(data_dir=tmp_path / "store", encoder="dummy")
    app = create_app(settings, service=open_service(settings))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def stored(client: TestClient) -> dict[str, Any]:
    """sha256 of every stored image, thumbnail and vector."""

    def digest(value: bytes) -> str:
        return hashlib.sha256(value).hexdigest()

    app: Any = client.app
    with app.state.service.items.database.reading() as connection:
        images = connection.execute("select id, image, thumbnail from pictures join items on item = number")
        vectors = connection.execute(
            "select id, route, model_id, vector from vectors join items on item = number order by id, route"
        )
        return {
            "images": {item_id: [digest(image), digest(thumbnail)] for item_id, image, thumbnail in images},
            "vectors": [[item_id, route, model_id, digest(vector)] for item_id, route, model_id, vector in vectors],
        }


def check(client: TestClient, recorded: dict[str, Any]) -> None:
    assert stored(client) == recorded["stored"]
    for request in recorded["answers"]:
        answer = client.request(request["method"], request["path"], json=request["body"])
        assert answer.status_code == 200, answer.text
        content, expected_content = answer.json(), request["answer"]
        if request["path"] == "/search":
            scores, expected_scores = (
                [hit.pop("score") for hit in body["hits"]] for body in (content, expected_content)
            )
            assert scores == pytest.approx(expected_scores, abs=1e-6)
            content = {name: content[name] for name in expected_content}  # without the durations
        assert content == expected_content


def test_the_store_gives_the_same_answers(client: TestClient) -> None:
    check(client, EXPECTED)


def test_the_snapshot_of_the_store_can_be_restored(client: TestClient) -> None:
    restored = EXPECTED["restored"]
    assert client.post(f"/index/snapshots/{restored['snapshot']}/restore").status_code == 200
    check(client, restored)


def test_the_store_can_be_written_to_and_reopened(client: TestClient, tmp_path: Path) -> None:
    answer = client.put("/items/i1", data={"note": "A blue lesion, replaced."})
    assert answer.status_code == 200, answer.text
    assert client.put("/items/new", data={"note": "A new lesion."}).status_code == 201
    assert client.delete("/items/gray").status_code == 204
    app: Any = client.app
    app.state.service.close()

    service = open_service(Settings(data_dir=tmp_path / "store", encoder="dummy"))
    item = service.items.get("i1")
    assert item is not None
    assert (item.note, item.version) == ("A blue lesion, replaced.", 2)
    assert service.items.get("new") is not None
    assert service.items.get("gray") is None
    assert not (tmp_path / "store" / "index").exists()
    service.close()
