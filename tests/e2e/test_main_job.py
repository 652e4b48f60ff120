"""The main job on the real stack: notes, index, search, and the demo."""

from pathlib import Path

import pyarrow.parquet
import pytest

from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.stack, pytest.mark.gguf]
IMAGES = 40


@pytest.fixture(scope="module")
def drawn(stack: Stack) -> Path:
    """A small synthetic data set."""
    folder = stack.home / "data" / "drawn"
    answer = stack.dermnote("datasets", "draw", folder, "--count", str(IMAGES))
    assert answer.returncode == 0, answer.stderr
    return folder


def test_notes_index_and_search_succeed(stack: Stack, drawn: Path) -> None:
    notes = stack.installed_dermnote("notes", drawn)
    assert notes.returncode == 0, notes.stdout + notes.stderr
    table = pyarrow.parquet.read_table(stack.home / "notes" / "drawn" / "notes.parquet").to_pylist()
    assert len(table) == IMAGES
    assert all(row["faithful"] and row["synthetic"] for row in table)
    assert {row["source"] for row in table} <= {"llm", "template"}
    assert any(row["source"] == "llm" for row in table)

    index = stack.installed_dermnote("index", drawn)
    assert index.returncode == 0, index.stdout + index.stderr

    image = next(iter(sorted((drawn / "images").glob("*.jpg"))))
    search = stack.installed_dermnote("search", image, "-k", "3", "--via", "images")
    assert search.returncode == 0, search.stderr
    assert image.stem in search.stdout


def test_cross_modal_search_before_training_reports_unaligned_towers(stack: Stack, drawn: Path) -> None:
    image = next((drawn / "images").glob("*.jpg"))

    search = stack.dermnote("search", image, "--via", "notes")

    assert search.returncode == 1
    assert "aligned" in search.stderr
    assert len(search.stderr.strip().splitlines()) == 1


def test_the_demo_ends_with_retrieved_notes_and_a_report(stack: Stack, drawn: Path, tmp_path: Path) -> None:
    demo = stack.dermnote("demo", "--data", drawn, "--epochs", "1", "--out", tmp_path / "demo")

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "SYNTHETIC" in demo.stdout
    assert "notes found" in demo.stdout
    report = (tmp_path / "demo" / "report.html").read_text()
    assert "SYNTHETIC" in report
    assert 'src="http' not in report
    assert 'href="http' not in report


def test_a_data_set_too_small_to_split_is_a_one_line_error(stack: Stack, drawn: Path) -> None:
    answer = stack.dermnote("demo", "--data", drawn, "--limit", "5")

    assert answer.returncode == 1
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "too small to split" in answer.stderr


def test_an_empty_folder_is_a_one_line_error(stack: Stack, tmp_path: Path) -> None:
    answer = stack.dermnote("demo", "--data", tmp_path)

    assert answer.returncode == 1
    assert len(answer.stderr.strip().splitlines()) == 1
    assert str(tmp_path) in answer.stderr


def test_an_unreachable_service_is_a_one_line_error_with_the_command_to_start_it(stack: Stack, drawn: Path) -> None:
    stack_down = Stack(stack.home, stack.environment | {"NOTEGEN_URL": "http://127.0.0.1:9"})

    answer = stack_down.dermnote("notes", drawn)

    assert answer.returncode == 1
    assert "make up" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
