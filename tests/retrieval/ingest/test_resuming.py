"""An interrupted load is repeated: stored items are recognised and not encoded again."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from dermnote_retrieval.app import create_app
from dermnote_retrieval.encoder.base import Encoder, Vectors
from dermnote_retrieval.encoder.dummy import DummyEncoder, DummyModels
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings
from tests.train.servers import served

RECORDS = 200
TAR, NDJSON = {"Content-Type": "application/x-tar"}, {"Content-Type": "application/x-ndjson"}
COLOURS = ("red", "green", "blue", "yellow")


class CountingEncoder(DummyEncoder):
    """Counts the images and texts it encodes."""

    def __init__(self, encoder: Encoder, counted: "Counter[str]") -> None:
        super().__init__(encoder.manifest)
        self._counted = counted

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        self._counted["images"] += len(images)
        return super().encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        self._counted["texts"] += len(texts)
        return super().encode_texts(texts)


class CountingModels(DummyModels):
    """The dummies with counters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: Counter[str] = Counter()

    def load(self, name: str) -> Encoder:
        return CountingEncoder(super().load(name), self.encoded)


@contextmanager
def serving(folder: Path, models: CountingModels) -> Iterator[httpx.Client]:
    """The service over HTTP, from start to shutdown."""
    settings = Settings(data_dir=folder, encoder="dummy", bulk_chunk_items=16)
    app = create_app(settings, service=open_service(settings, source=models))
    with served(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def line(number: int, **changed: Any) -> bytes:
    fields = {"id": f"i{number:03}", "note": f"note {number}", "metadata": {"b": number, "a": [1, 2.5]}, "group": "g"}
    return json.dumps(fields | changed).encode() + b"\n"


def statuses(answer: httpx.Response) -> Mapping[str, int]:
    assert answer.status_code == 200, answer.text
    return Counter(json.loads(one)["status"] for one in answer.text.splitlines())


class Cut(Exception):
    """The client disconnects."""


def cut_off(sent: bytes, client: httpx.Client, *, stored: int) -> Iterator[bytes]:
    """A body whose connection breaks once `stored` of its items are stored."""
    yield sent
    while httpx.get(f"{client.base_url}/index").json()["items"] < stored:
        pass
    raise Cut


def test_a_load_resumes_after_its_connection_was_lost(tmp_path: Path) -> None:
    models, half = CountingModels(), b"".join(line(number) for number in range(RECORDS // 2))
    with serving(tmp_path, models) as client, pytest.raises(Cut):
        client.post("/items/bulk", content=cut_off(half, client, stored=64), headers=NDJSON)
    with serving(tmp_path, models) as client:
        stored = client.get("/index").json()["items"]
        assert 64 <= stored <= RECORDS // 2
        assert models.encoded["texts"] == stored
        whole = b"".join(line(number) for number in range(RECORDS))
        assert statuses(client.post("/items/bulk", content=whole, headers=NDJSON)) == {
            "unchanged": stored,
            "created": RECORDS - stored,
        }
        assert models.encoded["texts"] == RECORDS
        assert statuses(client.post("/items/bulk", content=whole, headers=NDJSON)) == {"unchanged": RECORDS}
        assert models.encoded["texts"] == RECORDS


def shard() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(RECORDS):
            picture = io.BytesIO()
            Image.new("RGB", (32, 24), COLOURS[number % 4]).save(picture, "PNG")
            for suffix, content in (("png", picture.getvalue()), ("txt", f"note {number}".encode())):
                member = tarfile.TarInfo(f"i{number:03}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_a_truncated_tar_is_repeated(tmp_path: Path) -> None:
    models, whole = CountingModels(), shard()
    with serving(tmp_path, models) as client, pytest.raises(Cut):
        client.post("/items/bulk", content=cut_off(whole[: len(whole) // 2], client, stored=64), headers=TAR)
    with serving(tmp_path, models) as client:
        stored = client.get("/index").json()["items"]
        assert 64 <= stored < RECORDS
        reported = statuses(client.post("/items/bulk", content=whole, headers=TAR))
        assert reported == {"unchanged": stored, "created": RECORDS - stored}
        assert models.encoded == {"images": RECORDS, "texts": RECORDS}


@pytest.mark.parametrize(
    "changed", [{"note": "another"}, {"metadata": {"a": [1, 2]}}, {"group": "h"}, {"note": None}], ids=str
)
def test_a_changed_record_is_an_update(tmp_path: Path, changed: dict[str, Any]) -> None:
    with serving(tmp_path, CountingModels()) as client:
        client.post("/items/bulk", content=line(1), headers=NDJSON)
        for content, expected in ((line(1, **changed), "updated"), (line(1), "updated"), (line(1), "unchanged")):
            assert statuses(client.post("/items/bulk", content=content, headers=NDJSON)) == {expected: 1}


def test_the_last_of_two_records_with_one_id_counts(tmp_path: Path) -> None:
    with serving(tmp_path, CountingModels()) as client:
        client.post("/items/bulk", content=line(1), headers=NDJSON)
        client.post("/items/bulk", content=line(1, note="another") + line(1), headers=NDJSON)

        assert client.get("/items/i001").json()["note"] == "note 1"
        hits = client.post("/search", json={"text": "note 1"}).json()["hits"]
        assert hits[0]["score"] == pytest.approx(1, abs=1e-5)


def test_the_encoders_vector_replaces_a_client_vector(tmp_path: Path) -> None:
    """A record without vectors differs from the same record with vectors."""
    given = {"note_vector": [1.0] * 96, "model": "dummy-1"}
    models = CountingModels()
    with serving(tmp_path, models) as client:
        for content, expected in (
            (line(1, **given), "created"),
            (line(1, **given), "unchanged"),
            (line(1), "updated"),
            (line(1), "unchanged"),
            (line(1, **given), "updated"),
        ):
            assert statuses(client.post("/items/bulk", content=content, headers=NDJSON)) == {expected: 1}
        assert models.encoded["texts"] == 1


def test_a_repeated_put_is_encoded_once(tmp_path: Path) -> None:
    models = CountingModels()
    with serving(tmp_path, models) as client:
        answers = [client.put("/items/a", data={"note": "red"}) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [201, 200, 200]
        assert answers[0].json() == answers[2].json()
        assert models.encoded["texts"] == 1


def test_stored_items_are_still_recognised_after_re_embedding(tmp_path: Path) -> None:
    models = CountingModels()
    with serving(tmp_path, models) as client:
        client.post("/items/bulk", content=line(1), headers=NDJSON)
        client.put("/models/active", json={"name": "dummy-aligned"})
        while client.get("/index").json()["model"] != "dummy-aligned-1":
            pass
        before = models.encoded["texts"]

        assert statuses(client.post("/items/bulk", content=line(1), headers=NDJSON)) == {"unchanged": 1}
        assert models.encoded["texts"] == before
