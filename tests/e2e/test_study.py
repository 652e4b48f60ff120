"""The full chain over HTTP with synthetic lesions: notes, study (killed once), export, model swap, index, search."""

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dermnote_contracts.manifest import MANIFEST_NAME, ModelManifest
from dermnote_train.remote.retrieval import RetrievalService
from tests.e2e.conftest import ROOT, Stack
from tests.effort import EVERYTHING, amount
from tests.notegen.processes import NoteService

pytestmark = [pytest.mark.stack, pytest.mark.gguf]
IMAGES = amount(40, 60)
PLAN = """
resamples = {resamples}
[domains.drawn]
folder = "data/drawn"
[domains.other]
folder = "data/other"
[[routes]]
train = "drawn"
away = ["other"]
[frozen]
arms = ["image", "G", "G-findings-blinded", "table-findings", "random", "class-name"]
seeds = 2
image_size = 64
views = 2
epochs = 8
batch_size = 16
[tuned]
arms = ["image", "G"]
seeds = 1
config = {{ image_size = 64, epochs = {epochs}, tuned = "last", save_every = 1 }}
[trials]
arms = ["image", "G-findings-blinded"]
seeds = 1
[trials.changes.facts]
wording = "facts"
[trials.changes.smaller]
image_size = 32
views = 1
"""


@pytest.fixture(scope="module")
def study_stack(stack: Stack) -> Iterator[Stack]:
    """The stack, with notes written by the scripted engine, or by the language model in `make test-all`."""
    if EVERYTHING:
        yield stack
        return
    with tempfile.TemporaryDirectory(prefix="dn-") as folder:
        service = NoteService(Path(folder), settings={"NOTEGEN_WORKERS": "24"})
        try:
            service.start()
            yield Stack(stack.home, stack.environment | {"NOTEGEN_URL": service.url})
        finally:
            service.stop()


@pytest.fixture(scope="module")
def plan(study_stack: Stack) -> Path:
    """Two synthetic data sets and a small plan for them."""
    for name, seed in (("drawn", "0"), ("other", "1")):
        folder = study_stack.home / "data" / name
        made = study_stack.dermnote("datasets", "draw", folder, "--count", str(IMAGES), "--seed", seed)
        assert made.returncode == 0, made.stderr
    path = study_stack.home / "plan.toml"
    path.write_text(PLAN.format(epochs=2, resamples=amount(100, 2000)))
    return path


@pytest.fixture(scope="module")
def out(study_stack: Stack) -> Path:
    """The study folder that all tests of this module share, in order: its notes are written once."""
    return study_stack.home / "study"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_without_time_no_cell_runs_and_the_rest_is_reported(study_stack: Stack, plan: Path, out: Path) -> None:
    done = study_stack.dermnote("study", plan, "--out", out, "--minutes", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 cells are left" in done.stdout


def test_study_export_index_and_search_succeed(study_stack: Stack, plan: Path, out: Path) -> None:
    killed_in_the_middle(
        study_stack, "study", plan, "--out", out, when=lambda: any((out / "cells").glob("frozen/**/*.safetensors"))
    )
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("frozen/**/*.safetensors")}

    done = study_stack.dermnote("study", plan, "--out", out)

    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "what was done is not done again"
    figures = json.loads((out / "figures.json").read_text())
    places = {(one["place"]["grid"], one["place"]["pool"]) for one in figures["classified"]}
    assert places == {(grid, pool) for grid in ("frozen", "tuned") for pool in ("home", "other")}
    assert {row["arm"] for row in rows(out / "classification.csv")} >= {"image", "G", "table-findings"}
    assert {row["against"] for row in rows(out / "differences.csv")} >= {"image", "table-findings", "random"}
    tried = {(row["trial"], row["arm"]) for row in rows(out / "trials.csv")}
    assert tried == {(trial, arm) for trial in ("facts", "smaller") for arm in ("image", "G-findings-blinded")}
    report = (out / "report.html").read_text()
    assert "The answers" in report
    assert "Ablations" in report
    assert 'src="http' not in report
    assert 'href="http' not in report

    exported = study_stack.dermnote("export", out / "runs" / "drawn" / "G" / "seed0", "--name", "studied")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    assert "not for diagnosis" in (study_stack.home / "models" / "studied" / "README.md").read_text()
    activate(study_stack, "studied")
    notes = study_stack.dermnote("notes", study_stack.home / "data" / "drawn")
    assert notes.returncode == 0, notes.stdout + notes.stderr
    index = study_stack.dermnote("index", study_stack.home / "data" / "drawn")
    assert index.returncode == 0, index.stdout + index.stderr
    image = next(iter(sorted((study_stack.home / "data" / "other" / "images").glob("*.jpg"))))
    search = study_stack.dermnote("search", image, "-k", "3", "--via", "notes")
    assert search.returncode == 0, search.stdout + search.stderr
    assert "lesion" in search.stdout


def test_a_trained_model_is_re_evaluated_but_not_retrained(study_stack: Stack, plan: Path, out: Path) -> None:
    cell, run = out / "cells" / "tuned" / "drawn" / "G" / "seed0.safetensors", out / "runs" / "drawn" / "G" / "seed0"
    before, trained = cell.read_bytes(), (run / "model.safetensors").stat().st_mtime_ns
    cell.unlink()
    done = study_stack.dermnote("study", plan, "--out", out, "--grid", "tuned")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cell.read_bytes() == before
    assert (run / "model.safetensors").stat().st_mtime_ns == trained


def test_a_public_report_contains_none_of_the_data(study_stack: Stack, plan: Path, out: Path) -> None:
    """A public report shows its own synthetic lesions; those of the domain `drawn` happen to be identical."""
    done = study_stack.dermnote("study", plan, "--out", out, "--grid", "frozen", "--seeds", "1", "--public")
    assert done.returncode == 0, done.stdout + done.stderr
    report = (out / "report.html").read_text()
    assert "contains no image, row or note of the data" in report
    written = (out / "notes" / "other" / "G").glob("*.jsonl")
    texts = [json.loads(line)["row"]["text"] for path in written for line in path.read_text().splitlines()]
    assert texts
    assert not any(text in report for text in texts)


def activate(stack: Stack, name: str) -> None:
    """PUT /models/active, and wait until the model is served."""
    folder = stack.home / "models" / name
    manifest = ModelManifest.model_validate_json((folder / MANIFEST_NAME).read_text())
    with RetrievalService(stack.environment["RETRIEVAL_URL"]) as service:
        service.activate_model(name)
        service.wait_active(name, model_id=manifest.model_id, on_progress=lambda _: None)


def killed_in_the_middle(stack: Stack, *arguments: str | Path, when: Callable[[], bool]) -> None:
    """Start the command and kill -9 it, with its child processes, once `when()` is true."""
    command = [str(Path(sys.executable).parent / "dermnote"), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=stack.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    ends = time.monotonic() + 600
    while not when():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < ends
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
