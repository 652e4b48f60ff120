"""Hits with an equal note or a near-duplicate image are marked, and folded for distinct hits."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dermnote_imaging.stored import difference_hash
from dermnote_retrieval.ingest.writer import note_digest
from dermnote_retrieval.query.executor import Fingerprint, RankedItem, duplicates_of, fold


def photo(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Smooth shapes, like those of a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def unit(seed: int) -> Any:
    values = np.random.default_rng(seed).normal(size=32).astype(np.float32)
    return values / np.linalg.norm(values)


def test_folding_keeps_the_best_hit_per_key_and_counts_the_others() -> None:
    ranked = [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6), (5, 0.5), (6, 0.4)]
    keys = {1: "a", 2: "b", 3: "a", 5: "a"}

    assert fold(ranked, keys, k=3) == [RankedItem(1, 0.9, 2), RankedItem(2, 0.8, 0), RankedItem(4, 0.6, 0)]
    assert fold([], {}, k=3) == []


def test_a_duplicate_refers_to_the_first_better_hit() -> None:
    fingerprints = [
        Fingerprint("n1", 0b1111, unit(1)),
        Fingerprint("n2", None, None),
        Fingerprint("n1", None, None),
        Fingerprint(None, 0b1110, unit(1)),
        Fingerprint("n2", 0b1111, unit(2)),
        Fingerprint(None, None, None),
        Fingerprint(None, None, None),
    ]

    assert duplicates_of(fingerprints) == [None, None, 0, 0, 1, None, None]
    assert duplicates_of([]) == []


@pytest.mark.parametrize(("one", "other", "similar"), [(0, 0b111111, True), (0, 0b1111111, False), (0, -1, False)])
def test_images_with_near_vectors_are_duplicates_up_to_six_hash_bits_including_the_sign_bit(
    one: int, other: int, similar: bool
) -> None:
    near = unit(1) + 0.3 * unit(2)
    vectors = unit(1), near / np.linalg.norm(near)
    assert 0.95 < float(vectors[0] @ vectors[1]) < 0.995

    marks = duplicates_of(
        [Fingerprint(None, one, vectors[0]), Fingerprint(None, other, vectors[1]), Fingerprint(None, -1, unit(5))]
    )

    assert marks == [None, 0 if similar else None, None]


def test_notes_that_differ_only_in_case_and_space_have_one_digest() -> None:
    assert note_digest("A lesion  of the back.") == note_digest("a LESION\nof the back. ")
    assert note_digest("A lesion of the back.") != note_digest("A lesion of the arm.")


def test_the_hash_survives_saving_and_scaling_and_distinguishes_images() -> None:
    whole = photo(1)
    again = Image.open(io.BytesIO(saved(whole.resize((300, 225)), "JPEG", quality=60)))

    def differing(one: Image.Image, other: Image.Image) -> int:
        return ((difference_hash(one) ^ difference_hash(other)) & (2**64 - 1)).bit_count()

    assert differing(whole, again) <= 3
    assert min(differing(whole, photo(seed)) for seed in range(2, 30)) > 10


@pytest.fixture
def fill(put: Any) -> Any:
    """Five equal notes of two patients, then two others."""

    def filled(client: Any) -> None:
        for number in range(5):
            put(client, f"same{number}", note="A red lesion.", group=f"p{number % 2}")
        put(client, "other", note="A red lesion of the arm.", group="p2")
        put(client, "third", note="A spot that is red.")

    return filled


def search(client: Any, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/search", json={"text": "a red lesion.", "via": "notes"} | body)
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["hits"]
    return hits


def test_equal_notes_are_marked_and_kept(client: Any, fill: Any) -> None:
    fill(client)

    hits = search(client, k=7)

    assert len(hits) == 7
    first = hits[0]["id"]
    assert [hit["duplicate_of"] for hit in hits] == [None, *[first] * 4, None, None]


def test_distinct_notes_fill_the_list_with_different_notes(client: Any, fill: Any) -> None:
    fill(client)

    hits = search(client, k=3, distinct="note")

    assert [(hit["note"], hit["folded"], hit["duplicate_of"], hit["rank"]) for hit in hits] == [
        ("A red lesion.", 4, None, 1),
        ("A red lesion of the arm.", 0, None, 2),
        ("A spot that is red.", 0, None, 3),
    ]


def test_distinct_groups_return_each_patient_once_and_every_item_without_group(client: Any, fill: Any) -> None:
    fill(client)
    hits = search(client, k=10, distinct="group")

    assert sorted(str(hit["group"]) for hit in hits) == ["None", "p0", "p1", "p2"]
    assert sum(hit["folded"] for hit in hits) == 3


def test_a_hundred_equal_notes_do_not_hide_the_next_note(client: Any, put: Any) -> None:
    for number in range(100):
        put(client, f"m{number}", note="This is a nevus.")
    put(client, "else", note="This is a melanoma.")

    hits = search(client, text="this is a nevus.", k=2, distinct="note")

    assert [hit["note"] for hit in hits] == ["This is a nevus.", "This is a melanoma."]
    assert hits[0]["folded"] == 99


def test_an_image_saved_again_is_marked(client: Any, put: Any) -> None:
    put(client, "one", image=saved(photo(1)), note="first")
    put(client, "again", image=saved(photo(1).resize((200, 150)), "JPEG", quality=80), note="second")
    put(client, "another", image=saved(photo(2)), note="third")

    answer = client.post("/search", files={"image": saved(photo(1))}, data={"via": "images"})
    hits = {hit["id"]: hit["duplicate_of"] for hit in answer.json()["hits"]}

    assert set(hits) == {"one", "again", "another"}
    assert {hits["one"], hits["again"]} in ({None, "one"}, {None, "again"})
    assert hits["another"] is None


def test_an_image_search_accepts_distinct_and_rejects_unknown_values(client: Any, put: Any) -> None:
    image = saved(photo(1))
    for name in "ab":
        put(client, name, image=image, group="p1")

    answer = client.post("/search", files={"image": image}, data={"distinct": "group"}).json()
    assert [hit["folded"] for hit in answer["hits"]] == [1]
    assert client.post("/search", files={"image": image}, data={"distinct": "id"}).status_code == 422
    assert client.post("/search", json={"text": "a", "distinct": "id"}).status_code == 422
