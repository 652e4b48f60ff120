"""Vectors for and from clients: /embed, and items with client vectors."""

import base64
import io
import json
import tarfile
from typing import Any

import numpy as np
import pytest

from dermnote_retrieval.encoder.dummy import ALIGNED_DIMS, IMAGE_DIM, TEXT_DIM

MODEL = "dummy-aligned-1"
DIM = ALIGNED_DIMS["dummy-aligned"]


def packed(values: Any) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def vector(place: int, *, dim: int = DIM) -> list[float]:
    values = np.zeros(dim)
    values[place] = 3.0
    return values.tolist()


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_texts_and_images_are_embedded_in_order(client: Any, paint: Any) -> None:
    texts = client.post("/embed", json={"texts": ["a red lesion", "blue"]}).json()
    images = client.post("/embed", files=[("image", ("a", paint("red"))), ("image", ("b", paint("blue")))]).json()

    assert (texts["model"], texts["dim"], images["dim"]) == ("dummy-1", TEXT_DIM, IMAGE_DIM)
    for embedded in (texts, images):
        assert np.linalg.norm(np.array(embedded["vectors"]), axis=1) == pytest.approx([1, 1], abs=1e-6)
    alone = client.post("/embed", files={"image": ("b", paint("blue"))}).json()
    assert images["vectors"][1] == alone["vectors"][0] != images["vectors"][0]
    assert images["took_ms"] > 0


def test_base64_is_the_same_vector_in_fewer_bytes(client: Any, paint: Any) -> None:
    for wide, narrow in (
        (
            client.post("/embed", json={"texts": ["red"]}),
            client.post("/embed", json={"texts": ["red"], "encoding": "base64"}),
        ),
        (
            client.post("/embed", files={"image": paint()}),
            client.post("/embed", files={"image": paint()}, data={"encoding": "base64"}),
        ),
    ):
        (text,) = narrow.json()["vectors"]
        assert np.frombuffer(base64.b64decode(text), "<f4") == pytest.approx(wide.json()["vectors"][0])


@pytest.mark.parametrize(
    "body", [{}, {"texts": []}, {"texts": [""]}, {"texts": ["a", "  "]}, {"texts": ["a"] * 65}, {"texts": "a"}]
)
def test_an_invalid_input_is_rejected_with_its_position(client: Any, body: dict[str, Any]) -> None:
    answer = client.post("/embed", json=body)

    assert answer.status_code == 422
    assert "texts" in answer.text


def test_embedding_needs_a_form_with_images_or_json(client: Any, paint: Any) -> None:
    assert client.post("/embed", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.post("/embed", data={"encoding": "float"}).status_code == 422
    assert client.post("/embed", files={"image": paint()}, data={"encoding": "hex"}).status_code == 422
    assert client.post("/embed", files={"image": b"no image"}).status_code == 422
    many = [("image", (str(n), paint())) for n in range(65)]
    assert client.post("/embed", files=many).status_code == 422


@pytest.mark.parametrize("form", [json.dumps, packed])
def test_an_item_is_found_by_its_client_vectors(aligned: Any, put: Any, form: Any) -> None:
    put(aligned, "a", note="text", image_vector=form(vector(0)), note_vector=form(vector(1)), model=MODEL)
    put(aligned, "b", note_vector=form(vector(2)), model=MODEL)

    assert aligned.get("/items/a").json()["routes"] == ["notes", "images"]
    assert aligned.get("/items/b").json()["routes"] == ["notes"]
    for place, via, first in ((0, "images", "a"), (1, "notes", "a"), (2, "notes", "b")):
        answer = aligned.post("/search", json={"vector": vector(place), "via": via, "k": 1})
        assert ids(answer) == [first]
        assert answer.json()["hits"][0]["score"] == pytest.approx(1)


def test_a_missing_vector_is_computed(aligned: Any, put: Any, paint: Any) -> None:
    put(aligned, "a", note="a red lesion", image=paint("red"), image_vector=json.dumps(vector(40)), model=MODEL)

    text = aligned.post("/search", json={"text": "red", "via": "notes"}).json()["hits"][0]
    image = aligned.post("/search", json={"vector": vector(40), "via": "images"}).json()["hits"][0]
    assert text["score"] > 0.5
    assert image["score"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("fields", "code", "status"),
    [
        ({"image_vector": json.dumps(vector(0))}, "invalid-request", 422),
        ({"image_vector": json.dumps(vector(0)), "model": "another"}, "model-mismatch", 409),
        ({"image_vector": json.dumps(vector(0, dim=7)), "model": MODEL}, "invalid-request", 422),
        ({"image_vector": json.dumps([0.0] * DIM), "model": MODEL}, "invalid-request", 422),
        ({"image_vector": "[1, 2, NaN]", "model": MODEL}, "invalid-request", 422),
        ({"image_vector": "[]", "model": MODEL}, "invalid-request", 422),
        ({"image_vector": "no base64!", "model": MODEL}, "invalid-request", 422),
        ({"image_vector": "YWI=", "model": MODEL}, "invalid-request", 422),
        ({"image_vector": packed(vector(0)), "model": "m" * 201}, "invalid-request", 422),
        ({"image_vector": packed(vector(0)), "model": "a\0b"}, "invalid-request", 422),
        ({"note_vector": packed([np.inf] * DIM), "model": MODEL}, "invalid-request", 422),
    ],
)
def test_an_invalid_vector_is_rejected(aligned: Any, fields: dict[str, str], code: str, status: int) -> None:
    answer = aligned.put("/items/a", data={"note": "text", **fields})

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert aligned.get("/items/a").status_code == 404


def test_bulk_loads_accept_vectors_and_reject_invalid_records_one_by_one(aligned: Any) -> None:
    lines = [
        {"id": "a", "note_vector": vector(3), "model": MODEL},
        {"id": "b", "note_vector": packed(vector(4)), "model": MODEL},
        {"id": "c", "note_vector": vector(5), "model": "another"},
        {"id": "d", "note_vector": vector(5)[:-1], "model": MODEL},
        {"id": "e", "note": "red"},
    ]
    content = "\n".join(map(json.dumps, lines))
    answer = aligned.post("/items/bulk", content=content, headers={"Content-Type": "application/x-ndjson"})

    outcomes = [json.loads(line) for line in answer.text.splitlines()]
    assert [one["status"] for one in outcomes] == ["created", "created", "failed", "failed", "created"]
    assert outcomes[2]["error"]["code"] == "model-mismatch"
    assert ids(aligned.post("/search", json={"vector": vector(4), "via": "notes", "k": 1})) == ["b"]


def test_the_json_of_a_tar_may_contain_vectors(aligned: Any, paint: Any) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (
            ("a.png", paint("red")),
            ("a.json", json.dumps({"image_vector": packed(vector(50)), "model": MODEL}).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

    answer = aligned.post("/items/bulk", content=out.getvalue(), headers={"Content-Type": "application/x-tar"})

    assert json.loads(answer.text)["status"] == "created"
    hits = aligned.post("/search", json={"vector": vector(50), "via": "images"}).json()["hits"]
    assert [(hit["id"], round(hit["score"], 3)) for hit in hits] == [("a", 1.0)]
