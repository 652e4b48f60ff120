"""Pushing to the index: one outcome per item, resuming after an interruption, and searches within one run."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.problems import DermnoteError, InsufficientStorage, Stopping
from dermnote_contracts.retrieval import BulkOutcome
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.index import SHARD, IndexInterrupted, push, read_image, search_similar
from dermnote_train.progress import Step
from dermnote_train.remote.retrieval import RetrievalService
from tests.train.servers import DROPPED, Answer, problem, retrieval_service, scripted_server

Draw = Callable[..., LesionDataset]
COLOURS = ("red", "green", "blue", "black")


class Interrupted(Exception):
    """Stands for Ctrl-C or a crashed machine."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RetrievalService]:
    with retrieval_service(tmp_path / "store") as url, RetrievalService(url) as client:
        yield client


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """A data set of single-colour images, two per patient."""

    def drawn(count: int, *, name: str = "drawn", form: str = "PNG", suffix: str = "png") -> LesionDataset:
        records = []
        for number in range(count):
            path = tmp_path / f"{name}-{number}.{suffix}"
            Image.new("RGB", (8, 8), COLOURS[number // 2 % 4]).save(path, form)
            facts = LesionMetadata(age=40 + number % 50, diagnosis="nevus")
            records.append(Record(f"img-{number}", path, f"{name}:p{number // 2}", "NEV", facts))
        return LesionDataset(name, tuple(records), ("NEV",), synthetic=True, licence="CC0-1.0")

    return drawn


def notes_of(dataset: LesionDataset) -> dict[str, str]:
    return {record.image_id: f"note of {record.image_id}" for record in dataset.records}


def test_every_item_is_stored_with_its_note_facts_and_group(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(3)

    run = push(service, dataset, records=dataset.records, notes=notes_of(dataset), run="r1")

    assert (run.created, run.updated, dict(run.failed)) == (3, 0, {})
    assert run.seconds > 0
    item = service.get_item("drawn-img-1")
    assert (item.note, item.group, set(item.routes)) == ("note of img-1", "drawn:p0", {"notes", "images"})
    assert item.metadata == {
        "age": 41,
        "diagnosis": "nevus",
        "dataset": "drawn",
        "label": "NEV",
        "synthetic": True,
        "run": "r1",
    }


def test_a_record_without_a_note_is_stored_with_its_image(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(2)

    run = push(service, dataset, records=dataset.records, notes={"img-0": "the only note"})

    assert run.created == 2
    assert service.get_item("drawn-img-1").routes == ["images"]
    assert "run" not in service.get_item("drawn-img-1").metadata


def test_a_repeated_push_updates_items_and_adds_none(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(3)
    push(service, dataset, records=dataset.records, notes={})

    run = push(service, dataset, records=dataset.records, notes=notes_of(dataset))

    assert (run.created, run.updated) == (0, 3)
    assert service.index_info().items == 3
    assert service.get_item("drawn-img-2").note == "note of img-2"


def test_an_interrupted_push_is_completed_by_the_next(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(SHARD + 6)
    steps: list[Step] = []

    def interrupted(step: Step) -> None:
        raise Interrupted(step)

    with pytest.raises(Interrupted):
        push(service, dataset, records=dataset.records, notes={}, progress=interrupted)
    assert service.index_info().items == SHARD

    run = push(service, dataset, records=dataset.records, notes={}, progress=steps.append)

    assert (run.created, run.unchanged, run.updated, dict(run.failed)) == (6, SHARD, 0, {})
    assert service.index_info().items == SHARD + 6
    assert [(step.done, step.total) for step in steps] == [(SHARD, SHARD + 6), (SHARD + 6, SHARD + 6)]


def test_rejected_items_are_reported_with_a_reason_and_the_others_stored(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(4)
    notes = notes_of(dataset) | {"img-1": "a NUL \0 inside", "img-3": "x" * 30_000}

    run = push(service, dataset, records=dataset.records, notes=notes)

    assert run.created == 2
    assert set(run.failed) == {"drawn-img-1", "drawn-img-3"}
    assert "NUL" in run.failed["drawn-img-1"]
    assert run.failed["drawn-img-3"]
    assert service.index_info().items == 2


def test_an_image_rejected_by_the_service_is_one_failed_item(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(3)
    content = dataset.records[1].image_path.read_bytes()
    dataset.records[1].image_path.write_bytes(content[:60])

    run = push(service, dataset, records=dataset.records, notes={})

    assert run.created == 2
    assert "damaged" in run.failed["drawn-img-1"]


@pytest.mark.parametrize(("form", "suffix"), [("JPEG", "jpg"), ("WEBP", "webp"), ("PNG", "jpg")])
def test_every_image_format_is_accepted_whatever_the_suffix(
    service: RetrievalService, draw: Draw, form: str, suffix: str
) -> None:
    dataset = draw(2, form=form, suffix=suffix)

    assert push(service, dataset, records=dataset.records, notes={}).created == 2


def test_an_mpo_image_is_accepted(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(1)
    red = Image.new("RGB", (8, 8), "red")
    red.save(dataset.records[0].image_path, "MPO", save_all=True, append_images=[red])

    assert push(service, dataset, records=dataset.records, notes={}).created == 1


def test_long_image_names_are_stored(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(2)
    records = [replace(record, image_id=f"{record.image_id}-{'x' * 110}") for record in dataset.records]

    run = push(service, dataset, records=records, notes={})

    assert (run.created, dict(run.failed)) == (2, {})
    assert service.get_item(f"drawn-{records[0].image_id}").group == "drawn:p0"


def test_a_missing_image_is_a_one_line_error(service: RetrievalService, draw: Draw) -> None:
    dataset = draw(1)
    dataset.records[0].image_path.unlink()

    with pytest.raises(UserError, match="cannot be read"):
        push(service, dataset, records=dataset.records, notes={})
    with pytest.raises(UserError, match="cannot be read"):
        read_image(dataset.records[0].image_path.parent)


def test_a_missing_outcome_is_an_error(draw: Draw) -> None:
    dataset = draw(3)
    outcome = json.dumps({"id": "drawn-img-0", "status": "created"}).encode()
    with (
        scripted_server(Answer(body=outcome + b"\n")) as server,
        RetrievalService(server.url) as service,
        pytest.raises(UserError, match="reported only 1 of 3 items"),
    ):
        push(service, dataset, records=dataset.records, notes={})


def outcomes(numbers: range, *, end: DermnoteError | None = None) -> Answer:
    """The response to a bulk load: these items were created, and the next one failed."""
    reported = [BulkOutcome(id=f"drawn-img-{number}", status="created") for number in numbers]
    if end is not None:
        reported.append(BulkOutcome(id=f"drawn-img-{numbers.stop}", status="failed", error=end.problem()))
    return Answer(body=b"".join(one.model_dump_json(exclude_none=True).encode() + b"\n" for one in reported))


def members(body: bytes) -> list[str]:
    """The item ids of a shard, in order."""
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return list(dict.fromkeys(name.partition(".")[0] for name in tar.getnames()))


def test_the_rest_is_sent_again_to_a_service_that_stops_midway(draw: Draw) -> None:
    dataset = draw(5)
    stopping = outcomes(range(2), end=Stopping())
    busy = problem(Stopping(), **{"Retry-After": "0"})
    with scripted_server(stopping, busy, outcomes(range(2, 5))) as server, RetrievalService(server.url) as service:
        run = push(service, dataset, records=dataset.records, notes={})

        assert (run.created, dict(run.failed)) == (5, {})
        first, *others = [members(request.body) for request in server.received]
    assert first == [f"drawn-img-{number}" for number in range(5)]
    assert others == [first[2:], first[2:]]


def test_a_service_that_stays_stopped_is_abandoned(draw: Draw) -> None:
    dataset = draw(3)
    with (
        scripted_server(outcomes(range(0), end=Stopping())) as server,
        RetrievalService(server.url) as service,
        pytest.raises(Stopping),
    ):
        push(service, dataset, records=dataset.records, notes={})
    assert len(server.received) == 2


def test_a_full_disk_ends_the_push_with_the_number_of_stored_items(draw: Draw) -> None:
    dataset = draw(SHARD + 5)
    full = outcomes(range(SHARD, SHARD + 2), end=InsufficientStorage("nothing was stored"))
    with (
        scripted_server(outcomes(range(SHARD)), full) as server,
        RetrievalService(server.url) as service,
        pytest.raises(
            IndexInterrupted, match=f"The disk is full.*{SHARD + 2} of {SHARD + 5} items are stored"
        ) as stopped,
    ):
        push(service, dataset, records=dataset.records, notes={})
    assert (stopped.value.run.created, len(stopped.value.run.failed)) == (SHARD + 2, 1)


def test_a_lost_service_ends_the_push_with_the_number_of_stored_items(draw: Draw) -> None:
    dataset = draw(SHARD + 5)
    with (
        scripted_server(outcomes(range(SHARD)), DROPPED) as server,
        RetrievalService(server.url, patience_s=0) as service,
        pytest.raises(IndexInterrupted, match=f"cannot be reached.*{SHARD} of {SHARD + 5} items are stored") as stopped,
    ):
        push(service, dataset, records=dataset.records, notes={})
    assert (stopped.value.run.created, dict(stopped.value.run.failed)) == (SHARD, {})


def test_a_search_returns_items_of_its_run_but_never_of_the_same_patient(service: RetrievalService, draw: Draw) -> None:
    dataset, other = draw(8), draw(8, name="other")
    push(service, dataset, records=dataset.records, notes=notes_of(dataset), run="new")
    push(service, other, records=other.records, notes=notes_of(other), run="new")
    old = [replace(record, image_id=f"old-{record.image_id}", group="drawn:else") for record in dataset.records]
    push(service, dataset, records=old, notes={}, run="old")

    response = search_similar(service, dataset.records[0], dataset=dataset, k=100, via="images", run="new")

    assert {hit.id for hit in response.hits} == {f"drawn-img-{number}" for number in range(2, 8)}
    assert {hit.metadata["run"] for hit in response.hits} == {"new"}
