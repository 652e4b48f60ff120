"""Search over HTTP: routes, alignment, exclusion, fusion."""

import json
from typing import Any

import pytest

COLOURS = ("red", "green", "blue", "yellow", "black", "white")


@pytest.fixture
def fill(put: Any, paint: Any) -> Any:
    """One item per colour, whose image and note agree; patients p0, p1, p2 with two items each."""

    def filled(client: Any) -> None:
        for place, colour in enumerate(COLOURS):
            put(
                client,
                colour,
                image=paint(colour),
                note=f"A {colour} lesion of the back.",
                metadata={"age": 10 * place},
                group=f"p{place // 2}",
            )

    return filled


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_an_empty_index_has_no_hits(client: Any, paint: Any) -> None:
    assert ids(client.post("/search", json={"text": "red"})) == []
    assert ids(client.post("/search", files={"image": paint()})) == []


def test_an_image_finds_similar_images(client: Any, fill: Any, paint: Any) -> None:
    fill(client)
    body = client.post("/search", files={"image": paint("blue")}, data={"k": "2"}).json()

    first = body["hits"][0]
    assert (first["id"], first["rank"], first["ranks"]) == ("blue", 1, {"images": 1})
    assert first["note"] == "A blue lesion of the back."
    assert (first["metadata"], first["group"], first["image"]) == ({"age": 20}, "p1", "/items/blue/image")
    assert first["score"] == pytest.approx(1, abs=0.02)
    assert len(body["hits"]) == 2
    assert (body["model"], body["routes"]) == ("dummy-1", ["images"])
    assert set(body["timings_ms"]) == {"decode", "encode", "filter", "search", "fetch"}
    assert body["took_ms"] > 0


def test_a_text_finds_notes_without_alignment(client: Any, fill: Any) -> None:
    fill(client)

    for via in ("notes", "fused"):
        answer = client.post("/search", json={"text": "yellow lesion", "via": via, "k": 1})
        assert (ids(answer), answer.json()["routes"]) == (["yellow"], ["notes"])


def test_crossing_unaligned_towers_is_409(client: Any, fill: Any, paint: Any) -> None:
    fill(client)

    answers = [
        client.post("/search", files={"image": paint()}, data={"via": "notes"}),
        client.post("/search", json={"text": "red", "via": "images"}),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (409, "encoder-not-aligned")


def test_aligned_towers_cross(aligned: Any, fill: Any, paint: Any) -> None:
    fill(aligned)

    by_image = aligned.post("/search", files={"image": paint("green")}, data={"via": "notes", "k": "1"})
    by_text = aligned.post("/search", json={"text": "green", "via": "images", "k": 1})
    assert (ids(by_image), by_image.json()["routes"]) == (["green"], ["notes"])
    assert (ids(by_text), by_text.json()["routes"]) == (["green"], ["images"])


def test_fused_combines_both_routes_by_reciprocal_rank(aligned: Any, put: Any, paint: Any) -> None:
    put(aligned, "both", image=paint("red"), note="red")
    put(aligned, "image-only", image=paint("red"))
    put(aligned, "note-only", note="red")
    put(aligned, "metadata-only", metadata={"age": 1})

    body = aligned.post("/search", files={"image": paint("red")}).json()
    assert body["routes"] == ["notes", "images"]
    assert body["hits"][0]["id"] == "both"
    assert set(ids(aligned.post("/search", files={"image": paint("red")}))) == {"both", "image-only", "note-only"}
    for hit in body["hits"]:
        assert hit["score"] == pytest.approx(sum(1 / (60 + rank) for rank in hit["ranks"].values()))


def test_an_item_finds_others_but_never_itself(client: Any, fill: Any) -> None:
    fill(client)

    for via in ("fused", "notes", "images"):
        hit_ids = ids(client.post("/search", json={"item_id": "red", "via": via, "k": 10}))
        assert sorted(hit_ids) == sorted(set(COLOURS) - {"red"})


def test_an_item_without_image_cannot_cross_unaligned_towers(client: Any, put: Any, fill: Any) -> None:
    fill(client)
    put(client, "text", note="red lesion")
    put(client, "bare", metadata={"age": 3})

    assert client.post("/search", json={"item_id": "text", "via": "images"}).status_code == 409
    assert client.post("/search", json={"item_id": "text"}).json()["routes"] == ["notes"]
    assert client.post("/search", json={"item_id": "bare"}).status_code == 422
    assert client.post("/search", json={"item_id": "nobody"}).json()["code"] == "unknown-item"


def test_an_item_without_image_crosses_aligned_towers(aligned: Any, put: Any, fill: Any) -> None:
    fill(aligned)
    put(aligned, "text", note="blue blue")

    assert ids(aligned.post("/search", json={"item_id": "text", "via": "images", "k": 1})) == ["blue"]


def test_own_group_and_ids_are_excluded(client: Any, fill: Any, paint: Any) -> None:
    fill(client)
    exclude = '{"groups": ["p0"], "ids": ["blue", "no-such-item"]}'

    hit_ids = ids(client.post("/search", files={"image": paint("red")}, data={"exclude": exclude, "k": "10"}))
    assert sorted(hit_ids) == ["black", "white", "yellow"]


def test_items_without_group_are_never_excluded_by_groups(client: Any, put: Any) -> None:
    put(client, "alone", note="red")

    assert ids(client.post("/search", json={"text": "red", "exclude": {"groups": ["p0"]}})) == ["alone"]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_k_hits_are_returned_if_k_items_match(client: Any, put: Any, paint: Any, k: int) -> None:
    for number in range(60):
        put(client, f"near-{number}", image=paint("red"), metadata={"lesion": "common"}, group="g")
    for number in range(5):
        put(client, f"far-{number}", image=paint("blue"), metadata={"lesion": "rare"}, group=f"own-{number}")

    rare = {"k": str(k), "filter": '{"lesion": "rare"}'}
    others = {"k": str(k), "exclude": '{"groups": ["g"]}'}
    for data in (rare, others, rare | others):
        hit_ids = ids(client.post("/search", files={"image": paint("red")}, data=data))
        assert len(hit_ids) == k
        assert all(item_id.startswith("far") for item_id in hit_ids)
    four = {"k": "10", "filter": '{"lesion": "rare"}', "exclude": '{"ids": ["far-0"]}'}
    assert len(ids(client.post("/search", files={"image": paint("red")}, data=four))) == 4


def test_fused_returns_k_hits_if_k_exist_on_any_route(aligned: Any, put: Any, paint: Any) -> None:
    for number in range(4):
        put(aligned, f"image-{number}", image=paint("red"))
        put(aligned, f"note-{number}", note="red")

    assert len(ids(aligned.post("/search", json={"text": "red", "k": 8}))) == 8


def test_a_vector_is_searched_on_the_routes_of_its_width(client: Any, fill: Any) -> None:
    fill(client)
    widths = {name: route["dim"] for name, route in client.get("/index").json()["routes"].items()}
    assert widths == {"images": 24, "notes": 96}

    for route, width in widths.items():
        for via in (route, "fused"):
            answer = client.post("/search", json={"vector": [1e200] * width, "via": via})
            assert (len(ids(answer)), answer.json()["routes"]) == (6, [route])
    wrong = client.post("/search", json={"vector": [1.0] * 96, "via": "images"})
    assert (wrong.status_code, "images 24" in wrong.json()["detail"]) == (422, True)
    assert client.post("/search", json={"vector": [1.0] * 7}).status_code == 422


def test_a_vector_searches_both_routes_of_aligned_towers(aligned: Any, fill: Any) -> None:
    fill(aligned)
    red = [0.0] * 64
    red[2] = 1.0

    body = aligned.post("/search", json={"vector": red, "k": 1}).json()
    assert ([hit["id"] for hit in body["hits"]], body["routes"]) == (["red"], ["images", "notes"])


@pytest.mark.parametrize("vector", ["[0, 0]", "[NaN]", "[Infinity]", "[1e999]", "[]", '["x"]', "{}"])
def test_vectors_without_direction_are_rejected(client: Any, fill: Any, vector: str) -> None:
    fill(client)
    body = f'{{"vector": {vector.replace("[0, 0]", str([0] * 24))}, "via": "images"}}'

    answer = client.post("/search", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


def test_scores_are_cosines_of_exact_search(client: Any, fill: Any) -> None:
    fill(client)
    hits = client.post("/search", json={"text": "A red lesion of the back.", "k": 6}).json()["hits"]

    assert hits[0]["score"] == pytest.approx(1)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert hits[1]["score"] == pytest.approx(6 / 7, abs=0.2)


@pytest.mark.parametrize(
    "note",
    [
        'quotes " and \\ and \x01\x1f\x7f',
        "line\nends\r\nand\ttabs",
        "\u2028 \ufeff \U0001f52c \ud7ff combining e\u0301",
        "]]}} [1, null] 'or 1=1",
        "long " * 2000 + "end",
    ],
)
def test_hits_have_the_content_of_the_item_whatever_its_text(client: Any, note: str) -> None:
    metadata = {"site_note": note, "big": 2**53 + 1, "small": 1.5e-300, "nothing": None, "nested": {"a": [True, -0.5]}}
    line = {"id": "odd", "note": f"lesion {note}", "metadata": metadata, "group": note[:100]}
    answer = client.post(
        "/items/bulk", content=json.dumps(line).encode(), headers={"Content-Type": "application/x-ndjson"}
    )
    assert json.loads(answer.text)["status"] == "created", answer.text

    item = client.get("/items/odd").json()
    (hit,) = client.post("/search", json={"text": "lesion", "via": "notes"}).json()["hits"]

    assert {name: hit[name] for name in ("note", "metadata", "group")} == {
        name: item[name] for name in ("note", "metadata", "group")
    }
    assert hit["note"] == line["note"]
