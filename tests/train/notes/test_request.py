"""Notes of a data set: one per image, whatever is interrupted, fails or changes. Uses the real service and Valkey."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.notes import ModelInfo
from dermnote_contracts.problems import EngineUnavailable
from dermnote_notegen.queue.records import MODEL
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.notes.request import NotesPlan, NotesRun, write_dataset_notes
from dermnote_train.notes.table import NoteRow, read_notes
from dermnote_train.progress import Report, Step
from dermnote_train.remote.notegen import NoteService
from tests.train.servers import Answer, ManualNoteService, manual_note_service, valkey

IMAGES = 12
PLAN = NotesPlan(strategy="P2", batch_size=4, open_batches=2)


class Interrupted(Exception):
    """Stands for Ctrl-C, a lost connection or a crashed machine."""


@pytest.fixture(scope="module")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def notegen(valkey_url: str) -> Iterator[ManualNoteService]:
    with manual_note_service(valkey_url) as service:
        yield service


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def dataset(images: int = IMAGES) -> LesionDataset:
    """A data set in which every age is different."""
    records = [
        Record(f"img-{n}", Path(f"{n}.jpg"), f"drawn:p{n // 2}", "NEV", LesionMetadata(age=20 + n, diagnosis="nevus"))
        for n in range(images)
    ]
    return LesionDataset("drawn", tuple(records), ("NEV",), synthetic=True, licence="CC0-1.0")


def write(
    notegen: ManualNoteService,
    out: Path,
    *,
    plan: NotesPlan = PLAN,
    images: int = IMAGES,
    progress: Report | None = None,
) -> NotesRun:
    """A run during which the service writes the requested notes."""
    with NoteService(notegen.url, patience_s=0.2) as service:
        return write_dataset_notes(
            service, dataset(images), plan=plan, out=out, progress=progress or (lambda _: notegen.work())
        )


def interrupt(notegen: ManualNoteService, out: Path, *, written: int) -> None:
    """Interrupt a run after `written` notes; the client has stored those of completed batches."""
    seen = 0

    def progress(_: Step) -> None:
        nonlocal seen
        if seen:
            raise Interrupted
        seen += 1
        notegen.work(written)

    with pytest.raises(Interrupted):
        write(notegen, out, progress=progress)


def image_ids(rows: tuple[NoteRow, ...]) -> list[str]:
    return [row.image_id for row in rows]


ALL = [f"img-{n}" for n in range(IMAGES)]


def test_every_image_gets_one_note_with_its_provenance(notegen: ManualNoteService, out: Path) -> None:
    run = write(notegen, out)

    assert image_ids(run.rows) == ALL
    assert read_notes(run.path) == run.rows
    assert run.path == out / "notes.parquet"
    assert (run.requested, dict(run.failed)) == (IMAGES, {})
    assert run.notes_per_s is not None
    assert run.texts == {row.image_id: row.text for row in run.rows}
    for number, row in enumerate(run.rows):
        assert str(20 + number) in row.text
        assert (row.dataset, row.group, row.label) == ("drawn", f"drawn:p{number // 2}", "NEV")
        assert (row.strategy, row.model, row.model_sha256) == ("P2", "scripted", "0" * 64)
        assert row.prompt_version
        assert row.synthetic
        assert row.synthetic_image
    assert len({row.seed for row in run.rows}) == IMAGES


def test_a_second_run_requests_nothing_and_returns_the_same_notes(notegen: ManualNoteService, out: Path) -> None:
    first = write(notegen, out)
    notegen.app.calls.clear()

    second = write(notegen, out)

    assert second.rows == first.rows
    assert (second.requested, second.notes_per_s) == (0, None)
    assert not [call for call in notegen.app.calls if call.startswith("POST")]
    assert len(notegen.note_ids()) == IMAGES


def test_note_seeds_are_reproducible_and_depend_on_the_run_seed(notegen: ManualNoteService, tmp_path: Path) -> None:
    first = write(notegen, tmp_path / "first")
    repeated = write(notegen, tmp_path / "repeated")
    other = write(notegen, tmp_path / "other", plan=replace(PLAN, seed=1))

    assert [row.seed for row in repeated.rows] == [row.seed for row in first.rows]
    assert not {row.seed for row in other.rows} & {row.seed for row in first.rows}


@pytest.mark.parametrize("written", [0, 1, 4, 6, 8], ids=lambda written: f"{written} written")
def test_an_interrupted_run_resumes_without_requesting_a_note_twice(
    notegen: ManualNoteService, out: Path, written: int
) -> None:
    interrupt(notegen, out, written=written)
    assert not (out / "notes.parquet").exists()

    run = write(notegen, out)

    assert image_ids(run.rows) == ALL
    assert len(notegen.note_ids()) == IMAGES
    assert run.requested == IMAGES - 4 * (written // 4)


def test_a_run_interrupted_several_times_still_completes(notegen: ManualNoteService, out: Path) -> None:
    for _ in range(3):
        interrupt(notegen, out, written=3)

    run = write(notegen, out)

    assert image_ids(run.rows) == ALL
    assert len(notegen.note_ids()) == IMAGES


def test_a_truncated_journal_loses_no_note(notegen: ManualNoteService, out: Path) -> None:
    first = write(notegen, out)
    (journal,) = out.glob("*.journal.jsonl")
    journal.write_bytes(journal.read_bytes()[:-50])
    (out / "notes.parquet").unlink()

    run = write(notegen, out)

    assert run.requested == 1
    assert run.rows == first.rows


def test_a_larger_limit_requests_only_the_new_notes(notegen: ManualNoteService, out: Path) -> None:
    few = write(notegen, out, images=5)
    more = write(notegen, out)

    assert more.requested == IMAGES - 5
    assert more.rows[:5] == few.rows
    assert len(notegen.note_ids()) == IMAGES


def test_the_number_of_open_batches_is_bounded(notegen: ManualNoteService, out: Path) -> None:
    waiting: list[int] = []

    def progress(_: Step) -> None:
        waiting.append(int(notegen.redis.llen("rq:queue:notes")))
        notegen.work(3)

    write(notegen, out, plan=replace(PLAN, batch_size=2, open_batches=3), progress=progress)

    assert max(waiting) == 6
    assert notegen.app.calls.count("POST /notes/batch") == IMAGES // 2


def test_progress_counts_the_whole_data_set(notegen: ManualNoteService, out: Path) -> None:
    steps: list[Step] = []

    def progress(step: Step) -> None:
        steps.append(step)
        notegen.work(5)

    interrupt(notegen, out, written=4)
    write(notegen, out, progress=progress)

    done = [step.done for step in steps]
    assert done == sorted(done)
    assert done[0] >= 4
    assert done[-1] == IMAGES
    assert {(step.stage, step.total) for step in steps} == {("notes", IMAGES)}


def model(name: str, sha256: str | None) -> ModelInfo:
    return ModelInfo(name=name, sha256=sha256, context_tokens=2048, engine="e")


@pytest.mark.parametrize(
    ("before", "after", "requested"),
    [
        (model("smol", "a" * 64), model("smol", "b" * 64), IMAGES),
        (model("smol", "a" * 64), model("smol-renamed", "a" * 64), 0),
        (model("qwen", None), model("llama", None), IMAGES),
        (model("qwen", None), model("qwen", None), 0),
    ],
    ids=["other weights", "renamed", "another server's other model", "another server's model"],
)
def test_another_language_model_makes_notes_be_requested_again(
    notegen: ManualNoteService, out: Path, before: ModelInfo, after: ModelInfo, requested: int
) -> None:
    notegen.load(before)
    write(notegen, out)
    notegen.load(after)

    run = write(notegen, out)

    assert run.requested == requested
    assert image_ids(run.rows) == ALL
    assert {row.model for row in run.rows} == {after.name if requested else before.name}


def test_another_prompt_version_makes_notes_be_requested_again(notegen: ManualNoteService, out: Path) -> None:
    write(notegen, out)
    with NoteService(notegen.url) as service:
        strategies = [info.model_copy(update={"prompt_version": "next"}) for info in service.strategies()]
    answer = json.dumps([info.model_dump() for info in strategies]).encode()
    notegen.app.overrides["GET /strategies"] = Answer(body=answer, headers={"Content-Type": "application/json"})

    run = write(notegen, out)

    assert run.requested == IMAGES
    assert image_ids(run.rows) == ALL


def test_changed_priors_make_notes_be_requested_again(notegen: ManualNoteService, out: Path) -> None:
    write(notegen, out)
    answer = json.dumps({"version": "next", "diagnoses": ["nevus"]}).encode()
    notegen.app.overrides["GET /priors"] = Answer(body=answer, headers={"Content-Type": "application/json"})

    run = write(notegen, out)

    assert run.requested == IMAGES


def test_template_notes_do_not_depend_on_the_language_model(notegen: ManualNoteService, out: Path) -> None:
    template = replace(PLAN, strategy="M")
    notegen.redis.delete(MODEL)
    write(notegen, out, plan=template)
    notegen.load(model("smol", "b" * 64))

    run = write(notegen, out, plan=template)

    assert run.requested == 0
    assert {(row.strategy, row.source, row.model) for row in run.rows} == {("M", "template", None)}


def test_two_strategies_do_not_affect_each_other(notegen: ManualNoteService, out: Path) -> None:
    first = write(notegen, out)
    template = write(notegen, out, plan=replace(PLAN, strategy="M"))
    again = write(notegen, out)

    assert {row.strategy for row in template.rows} == {"M"}
    assert (again.requested, again.rows) == (0, first.rows)
    assert read_notes(out / "notes.parquet") == first.rows


def test_failed_notes_are_reported_with_a_reason_and_the_others_stored(notegen: ManualNoteService, out: Path) -> None:
    notegen.failing = {21, 27}

    run = write(notegen, out)

    assert run.failed == {"img-1": "the ink is dry", "img-7": "the ink is dry"}
    assert image_ids(run.rows) == [name for name in ALL if name not in run.failed]
    assert read_notes(run.path) == run.rows


def test_only_failed_notes_are_retried(notegen: ManualNoteService, out: Path) -> None:
    notegen.failing = {20, 21, 22, 23, 27}  # a complete batch, and one of another
    assert len(write(notegen, out).failed) == 5
    assert len(write(notegen, out).failed) == 5
    notegen.failing = set()

    run = write(notegen, out)

    assert run.requested == 5
    assert (image_ids(run.rows), dict(run.failed)) == (ALL, {})


def test_cancelled_notes_count_as_failed_and_are_retried(notegen: ManualNoteService, out: Path) -> None:
    def cancel(_: Step) -> None:
        with NoteService(notegen.url) as service:
            for note_id in notegen.note_ids():
                if service.get(note_id).status == "queued":
                    service.cancel(note_id)

    run = write(notegen, out, progress=cancel)

    assert set(run.failed.values()) == {"cancelled"}
    assert len(run.failed) == IMAGES
    assert image_ids(write(notegen, out).rows) == ALL


def test_a_note_erased_by_the_service_is_reported_and_retried(notegen: ManualNoteService, out: Path) -> None:
    interrupt(notegen, out, written=6)
    with NoteService(notegen.url) as service:
        erased = 0
        for note_id in notegen.note_ids():
            job = service.get(note_id)
            if job.status == "finished" and "25" in job.notes[0].text:
                erased += service.cancel(note_id) is None
    assert erased == 1

    run = write(notegen, out)
    assert run.failed == {"img-5": "the service no longer has the note"}
    again = write(notegen, out)

    assert (again.requested, image_ids(again.rows)) == (1, ALL)


def test_a_strategy_that_is_not_offered_fails_before_any_request(notegen: ManualNoteService, out: Path) -> None:
    strategies = Answer(body=b"[]", headers={"Content-Type": "application/json"})
    notegen.app.overrides["GET /strategies"] = strategies

    with pytest.raises(UserError, match="does not offer strategy P2"):
        write(notegen, out)

    assert notegen.note_ids() == []


def test_a_service_without_a_model_fails_before_any_request(notegen: ManualNoteService, out: Path) -> None:
    notegen.redis.delete(MODEL)

    with pytest.raises(EngineUnavailable, match="no worker has reported"):
        write(notegen, out)

    assert notegen.note_ids() == []
