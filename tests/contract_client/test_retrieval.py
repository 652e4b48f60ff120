"""Every method of the retrieval client against the real service: typed results, and errors of the same class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dermnote_contracts.problems import (
    EncoderNotAligned,
    FilterRefused,
    ImageRefused,
    InvalidRequest,
    ModelMismatch,
    TooLarge,
    UnknownItem,
    UnknownModel,
    UnknownSnapshot,
)
from dermnote_contracts.retrieval import Exclude, SearchRequest
from dermnote_train.errors import UserError
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.remote.shards import NewItem
from tests.train.servers import retrieval_service

Paint = Callable[[str], bytes]


def item(item_id: str, **fields: Any) -> NewItem:
    defaults = {"image": None, "suffix": "png", "note": None, "metadata": {}, "group": None}
    return NewItem(item_id, **(defaults | fields))


def fill(service: RetrievalService, paint: Paint) -> None:
    """Store four lesions of two patients."""
    for number, colour in enumerate(("red", "green", "blue", "black")):
        facts = {"age": 40 + 10 * number, "diagnosis": "nv" if number % 2 else "mel"}
        note, group = f"a {colour} lesion", f"p{number // 2}"
        service.put_item(item(colour, image=paint(colour), note=note, metadata=facts, group=group))


def test_an_item_is_stored_read_replaced_and_deleted(retrieval: RetrievalService, paint: Paint) -> None:
    facts = {"age": 61, "diagnosis": "mel", "ours": {"deep": [1]}}
    stored = retrieval.put_item(item("a", image=paint("red"), note="ein Fleck, groß", metadata=facts, group="p1"))

    assert stored.note == "ein Fleck, groß"
    assert stored.metadata == {"age": 61, "diagnosis": "melanoma", "ours": {"deep": [1]}}
    assert (stored.id, stored.group, set(stored.routes)) == ("a", "p1", {"notes", "images"})
    assert retrieval.get_item("a") == stored

    replaced = retrieval.put_item(item("a", note="only a note"))
    assert (replaced.routes, replaced.image, replaced.group, replaced.metadata) == (["notes"], None, None, {})

    retrieval.delete("a")
    for method in (retrieval.get_item, retrieval.delete):
        with pytest.raises(UnknownItem):
            method("a")


def test_any_part_of_an_item_may_be_missing(retrieval: RetrievalService, paint: Paint) -> None:
    assert retrieval.put_item(item("image", image=paint("red"))).routes == ["images"]
    assert retrieval.put_item(item("facts", metadata={"age": 3})).routes == []
    assert retrieval.put_item(item("group", group="p1")).group == "p1"
    with pytest.raises(InvalidRequest, match="at least one"):
        retrieval.put_item(item("nothing"))


def test_an_id_with_a_dot_is_stored_and_one_with_invalid_characters_is_rejected(retrieval: RetrievalService) -> None:
    retrieval.put_item(item("a.b_c-1", note="dots are fine"))
    assert retrieval.get_item("a.b_c-1").note == "dots are fine"

    for bad in ("a b", "ü", "a?b", "a#b", "a%2Fb", "x" * 129):
        with pytest.raises(InvalidRequest) as raised:
            retrieval.put_item(item(bad, note="n"))
        assert [error.field for error in raised.value.errors] == ["path.item_id"]


def test_an_error_names_each_invalid_field(retrieval: RetrievalService) -> None:
    with pytest.raises(InvalidRequest) as raised:
        retrieval.put_item(item("a", metadata={"age": 999, "diagnosis": "melanomma"}))

    fields = {error.field: error for error in raised.value.errors}
    assert set(fields) == {"age", "diagnosis"} or set(fields) == {"metadata.age", "metadata.diagnosis"}
    assert any(error.nearest and error.nearest[0] == "melanoma" for error in fields.values())


def test_a_bulk_load_reports_one_outcome_per_item_in_order(retrieval: RetrievalService, paint: Paint) -> None:
    retrieval.put_item(item("b", note="old"))
    items = [
        item("a", image=paint("red"), note="a red lesion", metadata={"age": 61}, group="p1"),
        item("b", note="new"),
        item("c", image=b"not an image"),
        item("d", metadata={"sex": "purple"}),
        item("e" * 128, image=paint("blue")),
    ]

    outcomes = retrieval.bulk(items)

    assert [outcome.id for outcome in outcomes] == [new.item_id for new in items]
    assert [outcome.status for outcome in outcomes] == ["created", "updated", "failed", "failed", "created"]
    assert outcomes[2].error is not None
    assert outcomes[2].error.code == "image-refused"
    assert outcomes[3].error is not None
    assert outcomes[3].error.code == "invalid-request"
    assert retrieval.get_item("a").group == "p1"
    assert retrieval.get_item("b").note == "new"
    assert retrieval.get_item("e" * 128).routes == ["images"]
    assert retrieval.index_info().items == 3


def test_a_bulk_load_without_items_has_no_outcomes(retrieval: RetrievalService) -> None:
    assert retrieval.bulk([]) == []


@pytest.mark.parametrize("content", ["not an image", "", "GIF89a"])
def test_an_unreadable_image_is_rejected(retrieval: RetrievalService, content: str) -> None:
    for method in (retrieval.search_image, lambda data: retrieval.put_item(item("a", image=data))):
        with pytest.raises(ImageRefused):
            method(content.encode())


def test_an_image_above_the_size_limit_is_rejected(tmp_path: Path, paint: Paint) -> None:
    with retrieval_service(tmp_path / "store", max_upload_bytes=1000) as url, RetrievalService(url) as service:
        with pytest.raises(TooLarge):
            service.put_item(item("a", image=paint("red") + bytes(2000)))
        with pytest.raises(TooLarge):
            service.search_image(paint("red") + bytes(2000))


def test_an_image_search_returns_the_most_similar_image_first(retrieval: RetrievalService, paint: Paint) -> None:
    fill(retrieval, paint)

    response = retrieval.search_image(paint("red"), k=2, via="images")

    assert (response.hits[0].id, response.hits[0].rank) == ("red", 1)
    assert len(response.hits) == 2
    assert response.routes == ["images"]
    assert response.took_ms >= 0
    assert (response.hits[0].note, response.hits[0].group) == ("a red lesion", "p0")
    assert response.hits[0].metadata == {"age": 40, "diagnosis": "melanoma"}
    assert response.model == retrieval.index_info().model


def test_filters_and_exclusions_are_applied(retrieval: RetrievalService, paint: Paint) -> None:
    fill(retrieval, paint)

    def ids(**options: Any) -> set[str]:
        return {hit.id for hit in retrieval.search_image(paint("red"), via="images", **options).hits}

    assert ids() == {"red", "green", "blue", "black"}
    assert ids(where={"diagnosis": "MEL", "age": {"gte": 50}}) == {"blue"}
    assert ids(exclude=Exclude(ids=["black"], groups=["p0"])) == {"blue"}
    assert ids(where={"or": [{"age": 40}, {"age": 70}]}, exclude=Exclude(groups=["p1"])) == {"red"}


@pytest.mark.parametrize("where", [{"age": {"near": 5}}, {"and": 3}])
def test_an_invalid_filter_is_rejected(retrieval: RetrievalService, paint: Paint, where: dict[str, Any]) -> None:
    with pytest.raises(FilterRefused) as by_image:
        retrieval.search_image(paint("red"), where=where)
    with pytest.raises(FilterRefused) as by_text:
        retrieval.search(SearchRequest(text="red", filter=where))

    assert by_image.value.detail == by_text.value.detail != ""


@pytest.mark.parametrize("k", [0, 1001])
def test_a_k_out_of_range_is_rejected_by_name(retrieval: RetrievalService, paint: Paint, k: int) -> None:
    with pytest.raises(InvalidRequest) as raised:
        retrieval.search_image(paint("red"), k=k)

    assert [error.field for error in raised.value.errors] == ["k"]


def test_an_empty_index_has_no_hits(retrieval: RetrievalService, paint: Paint) -> None:
    assert retrieval.search_image(paint("red")).hits == []


def test_unaligned_towers_cannot_search_notes_by_image(retrieval: RetrievalService, paint: Paint) -> None:
    fill(retrieval, paint)

    with pytest.raises(EncoderNotAligned, match="train and activate a model"):
        retrieval.search_image(paint("red"), via="notes")
    assert retrieval.search_image(paint("red"), via="fused").routes == ["images"]


def test_aligned_towers_search_notes_by_image(aligned: RetrievalService, paint: Paint) -> None:
    fill(aligned, paint)

    assert aligned.search_image(paint("blue"), k=1, via="notes").hits[0].id == "blue"
    fused = aligned.search_image(paint("blue"), k=4)
    assert set(fused.routes) == {"notes", "images"}
    assert fused.hits[0].ranks == {"notes": 1, "images": 1}


def test_search_by_text_vector_and_item_id(aligned: RetrievalService, paint: Paint) -> None:
    fill(aligned, paint)

    assert aligned.search(SearchRequest(text="a green lesion", k=1)).hits[0].id == "green"
    similar = aligned.search(SearchRequest(item_id="red", via="images", exclude=Exclude(ids=["black"])))
    assert {hit.id for hit in similar.hits} == {"green", "blue"}
    dim = aligned.index_info().routes["images"].dim
    assert len(aligned.search(SearchRequest(vector=[1.0] + [0.0] * (dim - 1), k=3)).hits) == 3
    with pytest.raises(InvalidRequest, match="widths"):
        aligned.search(SearchRequest(vector=[1.0, 2.0]))
    with pytest.raises(UnknownItem):
        aligned.search(SearchRequest(item_id="missing"))
    with pytest.raises(InvalidRequest, match="exactly one"):
        aligned.search(SearchRequest(text="a", item_id="red"))


def test_the_index_reports_its_contents(retrieval: RetrievalService, paint: Paint) -> None:
    fill(retrieval, paint)
    retrieval.put_item(item("note", note="a note alone"))

    info = retrieval.index_info()

    assert (info.items, info.model, info.aligned) == (5, "dummy-1", False)
    assert {name: route.vectors for name, route in info.routes.items()} == {"notes": 5, "images": 4}


def test_another_model_is_listed_and_becomes_active(retrieval: RetrievalService, paint: Paint) -> None:
    fill(retrieval, paint)
    models = {model.name: model for model in retrieval.models()}
    assert {name: (model.active, model.aligned) for name, model in models.items()} == {
        "dummy": (True, False),
        "dummy-aligned": (False, True),
        "dummy-512": (False, True),
    }

    retrieval.activate_model("dummy-aligned")
    active = retrieval.wait_active("dummy-aligned", model_id=models["dummy-aligned"].model_id, timeout_s=60)

    assert (active.active, active.reembedding) == (True, None)
    assert retrieval.index_info().aligned
    assert retrieval.search_image(paint("red"), k=1, via="notes").hits[0].id == "red"
    retrieval.activate_model("dummy-aligned")  # already active: no effect


def test_a_missing_model_is_unknown(retrieval: RetrievalService) -> None:
    with pytest.raises(UnknownModel, match="available: dummy, dummy-aligned"):
        retrieval.activate_model("missing")
    with pytest.raises(UserError, match="does not list the model missing"):
        retrieval.wait_active("missing", model_id="missing-1")
    with pytest.raises(UserError, match="could not activate the model dummy"):
        retrieval.wait_active("dummy", model_id="dummy-of-other-weights")


def test_readiness_is_reported(retrieval: RetrievalService) -> None:
    retrieval.require_ready()

    assert retrieval.health().status == "ok"
    assert set(retrieval.health().checks.values()) == {"ok"}


def test_texts_and_images_are_embedded(aligned: RetrievalService, paint: Paint) -> None:
    texts = aligned.embed_texts(["red", "a green lesion"])
    images = aligned.embed_images([paint("red"), paint("green")])

    dims = {name: route.dim for name, route in aligned.index_info().routes.items()}
    assert (texts.model, texts.dim, images.dim) == ("dummy-aligned-1", dims["notes"], dims["images"])
    assert [len(texts.vectors), len(images.vectors)] == [2, 2]
    with pytest.raises(InvalidRequest):
        aligned.embed_texts([" "])
    with pytest.raises(ImageRefused):
        aligned.embed_images([b"not an image"])


def test_items_with_vectors_are_stored_one_by_one_and_in_bulk(aligned: RetrievalService) -> None:
    dim, model = aligned.index_info().routes["notes"].dim, aligned.index_info().model

    def unit(axis: int) -> list[float]:
        return [float(n == axis) for n in range(dim)]

    aligned.put_item(item("one", note="text", note_vector=unit(1), image_vector=unit(2), model=model))
    outcomes = aligned.bulk(
        [item("two", note_vector=unit(3), model=model), item("bad", note_vector=[1.0], model=model)]
    )

    assert [outcome.status for outcome in outcomes] == ["created", "failed"]
    for axis, via, expected in ((1, "notes", "one"), (2, "images", "one"), (3, "notes", "two")):
        assert aligned.search(SearchRequest(vector=unit(axis), via=via, k=1)).hits[0].id == expected  # type: ignore[arg-type]
    with pytest.raises(ModelMismatch):
        aligned.put_item(item("three", note_vector=unit(1), model="another"))


def test_search_by_text_and_by_image_can_return_distinct_hits(retrieval: RetrievalService, paint: Paint) -> None:
    for name in "abc":
        retrieval.put_item(item(name, image=paint("red"), note="the same", group="p1"))

    by_text = retrieval.search(SearchRequest(text="the same", distinct="note"))
    by_image = retrieval.search_image(paint("red"), distinct="group")

    assert [(len(response.hits), response.hits[0].folded) for response in (by_text, by_image)] == [(1, 2), (1, 2)]
    marked = retrieval.search(SearchRequest(text="the same")).hits
    assert [hit.duplicate_of for hit in marked] == [None, marked[0].id, marked[0].id]


def test_snapshots_are_taken_listed_restored_and_erased(retrieval: RetrievalService, paint: Paint) -> None:
    fill(retrieval, paint)
    taken = retrieval.take_snapshot()
    retrieval.delete("red")

    assert retrieval.snapshots() == [taken]
    assert retrieval.restore(taken.id) == taken
    assert retrieval.get_item("red").note == "a red lesion"
    retrieval.delete_snapshot(taken.id)
    assert retrieval.snapshots() == []
    for method in (retrieval.restore, retrieval.delete_snapshot):
        with pytest.raises(UnknownSnapshot):
            method(taken.id)
