"""Items over HTTP: put, get, list, thumbnail, delete."""

import io
import json
from typing import Any

import pytest
from PIL import Image


def test_a_new_item_is_created_and_read_back(client: Any, put: Any, paint: Any) -> None:
    answer = put(
        client, "a", image=paint(), note=" A red lesion. ", metadata={"dx_id": 7, "diagnosis": "NV"}, group="patient-1"
    )

    expected = {
        "id": "a",
        "note": "A red lesion.",
        "metadata": {"dx_id": 7, "diagnosis": "nevus"},
        "group": "patient-1",
        "image": "/items/a/image",
        "routes": ["notes", "images"],
    }
    assert answer.status_code == 201
    assert answer.json() == expected
    assert client.get("/items/a").json() == expected


def test_a_second_put_replaces_the_whole_item(client: Any, put: Any, paint: Any) -> None:
    put(client, "a", image=paint(), note="first", metadata={"age": 50}, group="g")
    answer = put(client, "a", note="second")

    assert answer.status_code == 200
    assert client.get("/items/a").json() == {
        "id": "a",
        "note": "second",
        "metadata": {},
        "group": None,
        "image": None,
        "routes": ["notes"],
    }
    assert client.get("/items/a/image").status_code == 404
    assert client.get("/index").json()["routes"]["images"]["vectors"] == 0
    assert client.post("/search", json={"text": "x", "filter": {"age": 50}}).json()["hits"] == []


@pytest.mark.parametrize("fields", [{"note": "n"}, {"metadata": {"age": 4}}, {"group": "g"}])
def test_one_field_is_enough(client: Any, put: Any, fields: dict[str, Any]) -> None:
    assert put(client, "a", **fields).status_code == 201


def test_an_image_alone_is_enough(client: Any, put: Any, paint: Any) -> None:
    assert put(client, "a", image=paint()).json()["routes"] == ["images"]


@pytest.mark.parametrize("data", [{}, {"note": "  "}, {"metadata": "{}"}, {"metadata": '{"age": null}'}])
def test_an_empty_item_is_rejected(client: Any, data: dict[str, str]) -> None:
    answer = client.put("/items/a", data=data, headers={"content-type": "application/x-www-form-urlencoded"})

    assert answer.status_code == 422
    assert "at least one of" in answer.json()["detail"]


def test_the_thumbnail_is_a_small_jpeg(client: Any, put: Any, paint: Any) -> None:
    put(client, "a", image=paint(size=(800, 400)))

    answer = client.get("/items/a/image")
    with Image.open(io.BytesIO(answer.content)) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (160, 80))
    assert answer.headers["content-type"] == "image/jpeg"


def test_a_deleted_item_is_removed_everywhere(client: Any, put: Any, paint: Any) -> None:
    put(client, "a", image=paint(), note="n")

    assert client.delete("/items/a").status_code == 204
    for answer in (client.delete("/items/a"), client.get("/items/a"), client.get("/items/a/image")):
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown-item")
    assert client.post("/search", files={"image": paint()}).json()["hits"] == []
    assert client.get("/index").json()["items"] == 0


def test_listing_returns_every_item_once_in_id_order(client: Any, put: Any) -> None:
    for item_id in ("b", "d", "a", "c", "e"):
        put(client, item_id, note=item_id)

    seen: list[str] = []
    cursor = None
    while True:
        page = client.get("/items", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["items"]) <= 2
        seen += [item["id"] for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("item_id", ["a b", "ü", "x" * 129, "a%00", "%ff"])
def test_ids_outside_the_pattern_are_rejected(client: Any, item_id: str) -> None:
    for answer in (client.put(f"/items/{item_id}", data={"note": "n"}), client.get(f"/items/{item_id}")):
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"age": 200}, "age"),
        ({"diagnosis": "melanomma"}, "diagnosis"),
        ({"symptoms": {"itch": "sometimes"}}, "symptoms.itch"),
        ({"own": 2**70}, "metadata.own"),
        ({"own": {"deep": ["a\0b"]}}, "metadata.own.deep"),
    ],
)
def test_invalid_metadata_names_the_field(client: Any, metadata: dict[str, Any], field: str) -> None:
    answer = client.put("/items/a", data={"metadata": json.dumps(metadata)})

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert client.get("/items/a").status_code == 404


def test_an_unknown_diagnosis_suggests_the_nearest(client: Any) -> None:
    answer = client.put("/items/a", data={"metadata": '{"diagnosis": "melanomma"}'})

    assert "melanoma" in answer.json()["errors"][0]["nearest"]


def test_too_many_metadata_values_are_rejected(client: Any) -> None:
    answer = client.put("/items/a", data={"metadata": json.dumps({f"k{n}": n for n in range(300)})})

    assert (answer.status_code, "values" in answer.json()["detail"]) == (422, True)
