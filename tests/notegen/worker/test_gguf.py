"""The worker program with the real GGUF: an engine that is killed during a batch, and deterministic notes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dermnote_contracts.notes import Batch, Note, NoteJob
from tests.effort import amount
from tests.notegen.endings import counted
from tests.notegen.processes import NoteService, wait_until

pytestmark = pytest.mark.gguf
NOTES = amount(60, 200)
SITES = ["back", "chest", "face", "upper extremity"]
DIAGNOSES = ["nevus", "melanoma", "basal cell carcinoma"]


@pytest.fixture(scope="module")
def service(short_folder: Path) -> Iterator[NoteService]:
    folder = short_folder / "worker-gguf"
    folder.mkdir()
    service = NoteService(folder, settings={"NOTEGEN_MODEL": "smollm2", "NOTEGEN_WORKERS": "24"})
    try:
        service.start()
        yield service
    finally:
        service.stop()
        shutil.rmtree(folder)


def item(number: int, **options: Any) -> dict[str, Any]:
    """One of 70 * 12 different patients."""
    facts = {"age": 20 + number % 70, "sex": "female", "site": SITES[number % 4], "diagnosis": DIAGNOSES[number % 3]}
    return {"metadata": facts, "strategy": "G", "options": options}


def submit(service: NoteService, items: list[dict[str, Any]]) -> str:
    answer = httpx.post(f"{service.url}/notes/batch", json={"items": items}, timeout=30)
    return str(answer.json()["id"])


def ended(service: NoteService, batch_id: str) -> int:
    return Batch.model_validate(httpx.get(f"{service.url}/batches/{batch_id}", timeout=30).json()).ended


def notes_of(service: NoteService, batch_id: str) -> list[Note]:
    """The notes of a batch in order, once all have ended; each must have been written."""
    total = Batch.model_validate(httpx.get(f"{service.url}/batches/{batch_id}", timeout=30).json()).total
    wait_until(lambda: ended(service, batch_id) == total, timeout_s=400, what="the batch has ended")
    lines = httpx.get(f"{service.url}/batches/{batch_id}/notes", timeout=30).text.splitlines()
    jobs = [NoteJob.model_validate_json(line) for line in lines]
    assert [job.index for job in jobs] == list(range(total))
    return [note for job in jobs for note in job.notes]


def test_each_note_ends_once_though_the_engine_is_killed(service: NoteService) -> None:
    with counted(service.redis_url) as endings:
        batch_id = submit(service, [item(number) for number in range(NOTES)])
        wait_until(lambda: ended(service, batch_id) > 20, timeout_s=120, what="the batch is on its way")
        killed = service.worker.engine_pid()

        service.worker.kill_engine()

        assert ended(service, batch_id) < NOTES - 24  # so that some notes are being written and others wait
        notes = notes_of(service, batch_id)
        assert sorted(endings().values()) == [1] * NOTES
    assert service.worker.engine_pid() not in (None, killed)
    assert len(notes) == NOTES
    assert [note.verification.faithful for note in notes] == [True] * NOTES
    assert {note.provenance.source for note in notes} == {"llm"}
    said = [next(fact.value for fact in note.facts if fact.field == "age") for note in notes]
    assert said == [20 + number % 70 for number in range(NOTES)]


@pytest.mark.parametrize("strategy", ["G", "P2"])
def test_a_deterministic_note_is_identical_whatever_else_is_written(service: NoteService, strategy: str) -> None:
    fixed = item(7, deterministic=True, seed=5, temperature=1.0, on_unfaithful="keep") | {"strategy": strategy}
    (alone,) = notes_of(service, submit(service, [fixed]))

    load = [item(number, seed=number) for number in range(amount(12, 24))]
    amid = notes_of(service, submit(service, [*load[:6], fixed, *load[6:]]))[6]

    assert amid.text == alone.text
    assert (alone.provenance.seed, alone.provenance.source) == (5, "llm")
