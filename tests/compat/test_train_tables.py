"""Files written by version 0.1.0 of the training client still load, and a run interrupted in it resumes.

tests/compat/train-0.1.0 was written by that version for a drawn data set; expected.json holds what that
version itself read from these files. The interrupted run had submitted two batches of ten notes; the first had ended,
with one failure.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dermnote_contracts.notes import ModelInfo, PriorsInfo
from dermnote_train.data.adapters import load_dataset
from dermnote_train.data.records import LesionDataset
from dermnote_train.data.splits import read_split
from dermnote_train.findings.table import with_findings
from dermnote_train.notes.request import NotesPlan, write_dataset_notes
from dermnote_train.notes.table import read_notes
from dermnote_train.remote.notegen import NoteService
from tests.train.servers import Answer, scripted_server

OLD = Path(__file__).parent / "train-0.1.0"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text("utf-8"))
NOTES = EXPECTED["notes"]
PLAN = NotesPlan(strategy="G", seed=3, batch_size=10, open_batches=2)
MODEL = ModelInfo(name="tiny", sha256="a" * 64, context_tokens=2048, engine="scripted")
STRATEGY = {"id": "G", "title": "facts", "uses_llm": True, "prompt_version": "G-1", "states": ["diagnosis"]}
PRIORS = PriorsInfo(version="priors-3", diagnoses=["nevus"])


@pytest.fixture
def dataset(tmp_path: Path) -> LesionDataset:
    """The data set of the old files, with blank images in place of the drawn ones."""
    folder = tmp_path / "clinic"
    (folder / "images").mkdir(parents=True)
    for name in ("metadata.csv", "columns.toml"):
        shutil.copy(OLD / name, folder / name)
    for line in (OLD / "metadata.csv").read_text("utf-8").splitlines()[1:]:
        Image.new("RGB", (8, 8)).save(folder / "images" / line.partition(",")[0])
    return load_dataset(folder)


def test_columns_toml_is_read_as_before(dataset: LesionDataset) -> None:
    assert dataset.name == "clinic"
    assert [
        {"image_id": one.image_id, "group": one.group, "label": one.label, "metadata": one.metadata.given()}
        for one in dataset.records
    ] == EXPECTED["records"]


def test_a_split_file_is_read_as_before(dataset: LesionDataset) -> None:
    split = read_split(OLD / "split.csv", dataset)
    parts = {name: [one.image_id for one in getattr(split, name)] for name in ("train", "val", "test")}
    assert {"seed": split.seed, **parts} == EXPECTED["split"]


def test_a_findings_file_is_read_as_before(dataset: LesionDataset) -> None:
    records = with_findings(dataset.records, OLD / "findings.csv")
    assert {one.image_id: one.metadata.findings.given() for one in records} == EXPECTED["findings"]


def test_a_notes_table_is_read_as_before() -> None:
    assert [asdict(row) for row in read_notes(OLD / "notes.parquet")] == NOTES


def test_an_interrupted_run_resumes_without_requesting_finished_notes(dataset: LesionDataset, tmp_path: Path) -> None:
    shutil.copy(OLD / "notes-G.journal.jsonl", tmp_path / "notes-G.journal.jsonl")
    batches = [NOTES[4:5], NOTES[10:20], NOTES[20:]]  # the failed note, then the batches without results
    first, second, third = (_batch(number, len(rows)) for number, rows in enumerate(batches))
    answers = [
        *(_json([STRATEGY]), _json(MODEL.model_dump()), _json(PRIORS.model_dump())),
        *(first, second, first, _jobs(batches[0]), second, _jobs(batches[1])),
        *(third, third, _jobs(batches[2])),
    ]
    with scripted_server(*answers) as server, NoteService(server.url, patience_s=0) as service:
        run = write_dataset_notes(service, dataset, plan=PLAN, out=tmp_path)

    posts = [request for request in server.received if request.call == "POST /notes/batch"]
    assert [len(json.loads(post.body)["items"]) for post in posts] == [1, 10, 9]
    assert posts[1].headers["Idempotency-Key"] == EXPECTED["second_batch_key"]
    assert _unordered(json.loads(posts[1].body)) == _unordered(EXPECTED["second_batch"])
    assert run.requested == 20
    assert [asdict(row) for row in run.rows] == NOTES
    assert [asdict(row) for row in read_notes(run.path)] == NOTES


def _unordered(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The requests of a batch; `include` is a set, so its order in JSON is arbitrary."""
    return [item | {"include": sorted(item["include"])} for item in batch["items"]]


def _json(value: object) -> Answer:
    return Answer(body=json.dumps(value).encode())


def _batch(number: int, total: int) -> Answer:
    """The state of a batch whose notes have all ended."""
    return _json({"id": f"b{number}", "total": total, "counts": {"finished": total}})


def _jobs(rows: list[dict[str, Any]]) -> Answer:
    return Answer(body="\n".join(json.dumps(_job(index, row)) for index, row in enumerate(rows)).encode())


def _job(index: int, row: dict[str, Any]) -> dict[str, Any]:
    """The job of the note service that becomes this row."""
    note = {
        "text": row["text"],
        "strategy": row["strategy"],
        "facts": [],
        "verification": {"faithful": row["faithful"], "coverage": row["coverage"], **json.loads(row["faults"])},
        "provenance": {
            **{name: row[name] for name in ("model", "model_sha256", "prompt_version", "priors_version", "seed")},
            **{name: row[name] for name in ("attempts", "source")},
            "tokens": {"sampled": row["sampled_tokens"]},
        },
    }
    times = {"created_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"}
    return {"id": f"n{index}", "status": "finished", "index": index, "notes": [note], **times}
