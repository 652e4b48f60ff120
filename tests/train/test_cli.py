"""The command line `dermnote`: its commands end to end, and one-line errors with a failing exit code."""

import csv
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dermnote_contracts.problems import InsufficientStorage
from dermnote_contracts.retrieval import BulkOutcome
from dermnote_train.cli import make_app, output
from dermnote_train.data.adapters import load_dataset
from dermnote_train.data.draw import draw_dataset
from dermnote_train.notes.blinding import BLINDED
from dermnote_train.notes.table import read_notes, write_notes
from dermnote_train.progress import Step
from dermnote_train.study.cells.outputs import reusable_facts
from tests.ports import free_port
from tests.train.servers import (
    Answer,
    ManualNoteService,
    manual_note_service,
    retrieval_service,
    scripted_server,
    valkey,
)

Dermnote = Callable[..., Result]
DIAGNOSES = ("nevus", "melanoma", "basal cell carcinoma")
SMALL = ("--epochs", "1", "--image-size", "32", "--batch-size", "8")


@dataclass(frozen=True)
class Services:
    """Both services, ready; notes are only written inside `working()`."""

    notes: ManualNoteService
    retrieval: str


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with (
        valkey(tmp_path_factory.mktemp("valkey")) as redis_url,
        manual_note_service(redis_url) as notes,
        retrieval_service(tmp_path_factory.mktemp("store")) as retrieval,
    ):
        yield Services(notes, retrieval)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("data") / "drawn", count=40)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def dermnote(home: Path) -> Dermnote:
    """The command line without services."""

    def run(*arguments: str | Path, **environment: str) -> Result:
        unused = f"http://127.0.0.1:{free_port()}"
        env = {"DERMNOTE_HOME": str(home), "NOTEGEN_URL": unused, "RETRIEVAL_URL": unused} | environment
        return CliRunner(env=env).invoke(make_app(), list(map(str, arguments)))

    return run


@pytest.fixture
def served(dermnote: Dermnote, services: Services) -> Dermnote:
    """The command line with both services ready."""
    urls = {"NOTEGEN_URL": services.notes.url, "RETRIEVAL_URL": services.retrieval}
    return lambda *arguments, **environment: dermnote(*arguments, **(urls | environment))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A small plain data set in which every age is different."""
    return write_folder(tmp_path / "images", count=6)


def write_folder(folder: Path, *, count: int, without: str = "") -> Path:
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        Image.new("RGB", (16, 16), (10 * number, 90, 90)).save(folder / "images" / f"{number}.png")
        row = {
            "image": f"{number}.png",
            "diagnosis": DIAGNOSES[number % 3],
            "age": 40 + number,
            "patient_id": f"p{number}",
        }
        rows.append({name: value for name, value in row.items() if name != without})
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def succeed(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(result: Result, *, code: int = 1) -> str:
    """The line on stderr of a command that failed as it should."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def cells(output: str) -> tuple[list[str], list[str]]:
    """The column names and values of a table with one row."""
    head, row = (line for line in output.splitlines() if line.startswith(("┃", "│")))
    return re.findall(r"[\w/.]+", head), re.findall(r"[\w/.]+", row)


# Commands end to end


def test_notes_are_written_indexed_and_found(served: Dermnote, services: Services, images: Path, home: Path) -> None:
    with services.notes.working():
        output = succeed(served("notes", images))
    assert str(home / "notes" / "images" / "notes.parquet") in output
    assert len(read_notes(home / "notes" / "images" / "notes.parquet")) == 6

    assert "now holds 6 items" in succeed(served("index", images))
    repeated = succeed(served("index", images))
    assert dict(zip(*cells(repeated), strict=True)) | {"items/s": ""} == {
        "items": "6",
        "created": "0",
        "updated": "0",
        "unchanged": "6",
        "failed": "0",
        "items/s": "",
    }

    result = succeed(served("search", images / "images" / "0.png", "-k", "2", "--dataset", "images"))
    assert "found by images" in result
    assert "images-0" in result
    others = succeed(
        served("search", images / "images" / "0.png", "--dataset", "images", "--exclude-group", "images:p0")
    )
    assert "images-0" not in others
    assert "nothing found" in succeed(served("search", images / "images" / "0.png", "--dataset", "other"))


def test_an_index_run_stopped_by_a_full_disk_reports_what_was_stored(
    served: Dermnote, services: Services, images: Path
) -> None:
    with services.notes.working():
        succeed(served("notes", images))
    full = InsufficientStorage("nothing was stored").problem()
    outcomes = [
        BulkOutcome(id="images-0", status="created"),
        BulkOutcome(id="images-1", status="unchanged"),
        BulkOutcome(id="images-2", status="failed", error=full),
    ]
    body = "\n".join(outcome.model_dump_json(exclude_none=True) for outcome in outcomes).encode()
    with scripted_server(Answer(body=b'{"status": "ok", "checks": {}}'), Answer(body=body)) as server:
        result = served("index", images, RETRIEVAL_URL=server.url)

    assert "2 of 6 items are stored: run the same command again" in fail(result)
    assert cells(result.stdout)[1][:5] == ["3", "1", "0", "1", "1"]


def test_failed_notes_are_counted_and_retried_by_the_next_run(
    served: Dermnote, services: Services, images: Path, tmp_path: Path
) -> None:
    services.notes.failing = {42}
    with services.notes.working():
        result = served("notes", images, "--out", tmp_path / "out", "--strategy", "M")
        assert result.exit_code == 1
        assert "failed: 2: the ink is dry" in result.stdout
        assert "1 notes failed; run the same command again" in result.stdout
        assert len(read_notes(tmp_path / "out" / "notes.parquet")) == 5

        services.notes.failing = set()
        succeed(served("notes", images, "--out", tmp_path / "out", "--strategy", "M"))
        assert "all reused" in succeed(served("notes", images, "--out", tmp_path / "out", "--strategy", "M"))

    assert len(read_notes(tmp_path / "out" / "notes.parquet")) == 6


def test_rejected_items_are_reported_and_the_exit_code_is_1(
    served: Dermnote, services: Services, images: Path, tmp_path: Path
) -> None:
    with services.notes.working():
        succeed(served("notes", images, "--out", tmp_path))
    rows = list(read_notes(tmp_path / "notes.parquet"))
    write_notes(tmp_path / "bad.parquet", [replace(rows[0], text="a NUL \0 inside"), *rows[1:]])

    result = served("index", images, "--notes", tmp_path / "bad.parquet")

    assert result.exit_code == 1
    assert "failed: images-0: " in result.stdout
    assert "NUL" in result.stdout


def test_data_sets_are_drawn_inspected_checked_and_split(dermnote: Dermnote, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert "SYNTHETIC" in succeed(dermnote("datasets", "draw", folder, "--count", "40"))
    assert "SYNTHETIC" in succeed(dermnote("datasets", "inspect", folder))
    assert "40 usable images, 0 problems" in succeed(dermnote("datasets", "check", folder))
    succeed(dermnote("datasets", "split", folder, "--out", tmp_path / "split.csv"))
    assert len((tmp_path / "split.csv").read_text().splitlines()) == 41
    assert "HAM10000" in succeed(dermnote("datasets", "list"))


def test_leakage_fails_if_an_image_is_in_two_parts_of_a_split(dermnote: Dermnote, drawn: Path, tmp_path: Path) -> None:
    folder, split, out = tmp_path / "data", tmp_path / "split.csv", tmp_path / "leaks.json"
    shutil.copytree(drawn, folder)
    succeed(dermnote("datasets", "split", folder, "--out", split))
    output = succeed(dermnote("datasets", "leakage", folder, "--split", split, "--out", out))
    assert "Duplicate images: 0 pairs" in output
    assert "groups in more than one part" in output
    assert json.loads(out.read_text())["twins"] == []

    with split.open(newline="") as file:
        parts = {row["image_id"]: row["part"] for row in csv.DictReader(file)}
    trained, tested = (next(name for name, part in parts.items() if part == role) for role in ("train", "test"))
    shutil.copy(folder / "images" / f"{trained}.jpg", folder / "images" / f"{tested}.jpg")
    crossed = dermnote("datasets", "leakage", folder, "--split", split, "--out", out)
    assert crossed.exit_code == 1
    assert f"Duplicate images in more than one part of {split}: 1 pairs" in crossed.stdout
    (pair,) = json.loads(out.read_text())["twins_across"]
    assert {pair["first"]["image_id"], pair["second"]["image_id"]} == {trained, tested}

    both = dermnote("datasets", "leakage", folder, "--against", drawn)
    assert both.exit_code == 1
    assert "that are also in drawn: 40 pairs" in both.stdout


def test_fields_whose_presence_reveals_the_class_are_shown_and_dropped(
    dermnote: Dermnote, drawn: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(drawn, folder)
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["itch"] = "yes" if row["diagnosis"] in ("melanoma", "basal cell carcinoma") else ""
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    output = succeed(dermnote("datasets", "inspect", folder))
    assert "dropped fields, whose presence reveals the class (--leaky-fields keeps them): symptoms.itch" in output
    assert all(record.metadata.symptoms.itch is None for record in load_dataset(folder).records)
    assert any(record.metadata.symptoms.itch for record in load_dataset(folder, leaky_fields=True).records)


def test_findings_are_measured_shown_and_added_to_notes(
    served: Dermnote, services: Services, drawn: Path, home: Path, tmp_path: Path
) -> None:
    output = succeed(served("findings", drawn, "--limit", "10", "--sheet", tmp_path / "sheet.png"))
    measured = home / "findings" / "drawn.csv"
    assert f"findings: {measured}" in output
    assert "a lesion was found" in output
    assert (tmp_path / "sheet.png").stat().st_size > 10_000

    services.notes.requests.clear()
    with services.notes.working():
        succeed(served("notes", drawn, "--limit", "10", "--findings", measured))
    with measured.open() as file:
        rows = list(csv.DictReader(file))
    stated = sorted((one.metadata.findings.asymmetry or "") for one in services.notes.requests)
    assert stated == sorted(row["asymmetry"] for row in rows)
    assert any(stated)


def test_blinded_notes_are_requested_without_the_diagnosis_and_stored_separately(
    served: Dermnote, services: Services, images: Path, home: Path
) -> None:
    services.notes.requests.clear()
    with services.notes.working():
        output = succeed(served("notes", images, "--blinded"))
    assert str(home / "notes" / "images-blinded" / "notes.parquet") in output
    assert len(services.notes.requests) == 6
    assert all(one.include == BLINDED for one in services.notes.requests)


def test_findings_of_other_images_are_rejected(served: Dermnote, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "findings.csv").write_text("image_id,asymmetry,border,colours\nother,,,\n")
    line = fail(served("notes", drawn, "--limit", "10", "--findings", tmp_path / "findings.csv"))
    assert "no findings for 10 images" in line


def test_a_broken_image_is_reported_by_check_and_rejected_by_other_commands(
    dermnote: Dermnote, images: Path, tmp_path: Path
) -> None:
    path = images / "images" / "3.png"
    path.write_bytes(path.read_bytes()[:60])

    checked = dermnote("datasets", "check", images)
    assert checked.exit_code == 1
    assert "3.png cannot be decoded" in checked.stdout
    assert "3.png cannot be decoded" in fail(dermnote("train", images, "--image-only"))


@pytest.fixture(scope="module")
def run_dir(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run on the drawn images."""
    return train(drawn, tmp_path_factory.mktemp("runs") / "first", seed=0)


def train(drawn: Path, run_dir: Path, *, seed: int) -> Path:
    arguments = ["train", str(drawn), "--image-only", *SMALL, "--seed", str(seed), "--out", str(run_dir)]
    output = succeed(CliRunner().invoke(make_app(), arguments))
    assert f"run: {run_dir}" in output.replace("\n", "")
    return run_dir


def test_a_run_is_evaluated_on_its_held_out_part(dermnote: Dermnote, drawn: Path, run_dir: Path) -> None:
    output = succeed(dermnote("evaluate", run_dir, drawn))

    with (run_dir / "split.csv").open() as file:
        test = [row for row in csv.DictReader(file) if row["part"] == "test"]
    figures = json.loads((run_dir / "evaluation-drawn.json").read_text())
    assert (figures["dataset"], figures["synthetic"], figures["n"]) == ("drawn", True, len(test))
    assert "held-out test part" in output
    assert "balanced accuracy" in output
    assert "chance" in output


def test_a_run_is_evaluated_on_all_of_another_data_set(dermnote: Dermnote, run_dir: Path, images: Path) -> None:
    output = succeed(dermnote("evaluate", run_dir, images))

    assert "another data set" in output
    assert json.loads((run_dir / "evaluation-images.json").read_text())["n"] == 6


def test_weights_are_not_evaluated_on_their_training_images(
    dermnote: Dermnote, drawn: Path, run_dir: Path, tmp_path: Path
) -> None:
    # A training run killed in the folder of an older run leaves new weights and the old split.
    retrained = train(drawn, tmp_path / "retrained", seed=1)
    killed = shutil.copytree(run_dir, tmp_path / "killed", ignore=shutil.ignore_patterns("evaluation-*"))
    shutil.copy(retrained / "model.safetensors", killed / "model.safetensors")

    assert "not trained on the split in this folder" in fail(dermnote("evaluate", killed, drawn))
    assert not (killed / "evaluation-drawn.json").exists()
    succeed(dermnote("evaluate", retrained, drawn))


def test_evaluation_of_the_own_data_set_needs_all_of_its_images(
    dermnote: Dermnote, run_dir: Path, tmp_path: Path
) -> None:
    other = draw_dataset(tmp_path / "drawn", count=15, seed=5)

    assert "are not in drawn; give the data set it was created from" in fail(dermnote("evaluate", run_dir, other))


# One-line errors


@pytest.mark.parametrize(
    "command",
    [
        ("datasets", "inspect"),
        ("datasets", "check"),
        ("datasets", "split"),
        ("train", "--image-only"),
        ("notes",),
        ("index",),
        ("demo", "--data"),
    ],
    ids=" ".join,
)
def test_an_invalid_data_folder_is_a_one_line_error(served: Dermnote, tmp_path: Path, command: tuple[str, ...]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    incomplete = write_folder(tmp_path / "incomplete", count=6, without="diagnosis")
    imageless = write_folder(tmp_path / "imageless", count=6)
    shutil.rmtree(imageless / "images")

    assert "no such folder" in fail(served(*command, tmp_path / "nowhere"))
    assert str(empty) in fail(served(*command, empty))
    assert "no column diagnosis" in fail(served(*command, incomplete))
    if command not in (("datasets", "inspect"), ("datasets", "check")):
        assert "0.png" in fail(served(*command, imageless))


@pytest.mark.parametrize("command", [("notes",), ("index",), ("demo", "--data")], ids=" ".join)
def test_a_stopped_service_is_a_one_line_error_with_its_url(
    dermnote: Dermnote, images: Path, command: tuple[str, ...]
) -> None:
    unused = f"http://127.0.0.1:{free_port()}"

    line = fail(dermnote(*command, images, NOTEGEN_URL=unused, RETRIEVAL_URL=unused))

    assert unused in line
    assert "make up" in line


def test_a_search_without_a_service_is_a_one_line_error_with_its_url(dermnote: Dermnote, images: Path) -> None:
    unused = f"http://127.0.0.1:{free_port()}"

    assert unused in fail(dermnote("search", images / "images" / "0.png", RETRIEVAL_URL=unused))


@pytest.mark.parametrize("url", ["localhost:8002", "nothing", "http://127.0.0.1:port"])
def test_an_invalid_url_is_a_one_line_error(dermnote: Dermnote, images: Path, url: str) -> None:
    assert "set NOTEGEN_URL" in fail(dermnote("notes", images, NOTEGEN_URL=url))
    assert "set RETRIEVAL_URL" in fail(dermnote("index", images, RETRIEVAL_URL=url))


def test_a_service_that_is_not_ready_is_a_one_line_error_with_the_failing_check(
    served: Dermnote, services: Services, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_ready = Answer(503, b'{"status": "unavailable", "checks": {"redis": "ok", "worker": "none is alive"}}')
    monkeypatch.setitem(services.notes.app.overrides, "GET /health/ready", not_ready)

    for command in (("notes", images), ("demo", "--data", images)):
        assert f"{services.notes.url} is not ready (worker: none is alive)" in fail(served(*command))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("notes", "x", "--strategy", "Z"), "'--strategy'"),
        (("notes", "x", "--classes", "some"), "'--classes'"),
        (("notes", "x", "--batch-size", "1001"), "less than or equal to 1000"),
        (("notes", "x", "--limit", "0"), "'--limit'"),
        (("notes", "x", "--seed", "-1"), "'--seed'"),
        (("notes",), "'FOLDER'"),
        (("train", "x", "--seed", "2147483648"), "'--seed'"),
        (("train", "x", "--epochs", "0"), "'--epochs'"),
        (("train", "x", "--image-size", "9999"), "'--image-size'"),
        (("train", "x", "--epochs", "many"), "'--epochs'"),
        (("demo", "--via", "up"), "'--via'"),
        (("demo", "--seed", "99999999999"), "'--seed'"),
        (("search", "x.png", "-k", "1001"), "less than or equal to 1000"),
        (("search", "x.png", "-k", "0"), "'-k'"),
        (("search", "x.png", "--via", "words"), "'--via'"),
        (("datasets", "draw", "x", "--count", "3"), "'--count'"),
        (("datasets", "nothing"), "'nothing'"),
        (("evaluate", "x"), "'FOLDER'"),
        (("index", "x", "--unknown"), "--unknown"),
        (("nothing",), "'nothing'"),
    ],
    ids=" ".join,
)
def test_an_invalid_option_is_a_one_line_error_that_names_it(
    dermnote: Dermnote, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in fail(dermnote(*arguments), code=2)


@pytest.mark.parametrize("arguments", [(), ("datasets",)], ids=["dermnote", "dermnote datasets"])
def test_a_command_without_arguments_shows_its_help(dermnote: Dermnote, arguments: tuple[str, ...]) -> None:
    result = dermnote(*arguments)

    assert result.exit_code == 2
    assert "Usage:" in result.output
    assert "error:" not in result.output


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_an_invalid_run_folder_is_a_one_line_error(
    dermnote: Dermnote, drawn: Path, tmp_path: Path, command: str
) -> None:
    more = [drawn] if command == "evaluate" else []

    assert "not a run folder" in fail(dermnote(command, tmp_path / "nowhere", *more))
    assert "not a run folder" in fail(dermnote(command, drawn, *more))


@pytest.mark.parametrize("name", ["my model", "a/b", "..", "", "../outside", "x" * 129])
def test_a_model_is_only_exported_under_a_plain_name(
    dermnote: Dermnote, run_dir: Path, tmp_path: Path, name: str
) -> None:
    models = tmp_path / "models"

    result = dermnote("export", run_dir, "--models-dir", models, "--name", name)

    if name:
        assert "not a valid model name" in fail(result)
        assert not models.exists()
    else:
        assert f"model: {models / 'first'}" in succeed(result)


def test_training_without_notes_explains_how_to_create_them(dermnote: Dermnote, drawn: Path, home: Path) -> None:
    line = fail(dermnote("train", drawn))

    assert str(home / "notes" / "drawn" / "notes.parquet") in line
    assert "dermnote notes" in line


def test_an_invalid_notes_file_is_a_one_line_error(
    served: Dermnote, drawn: Path, run_dir: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(b"PAR1 and no more")

    for notes in (torn, tmp_path, tmp_path / "nowhere.parquet"):
        assert str(notes) in fail(served("index", drawn, "--notes", notes))
        assert str(notes) in fail(served("train", drawn, "--notes", notes))
        assert str(notes) in fail(served("evaluate", run_dir, drawn, "--notes", notes))


def test_a_file_in_place_of_a_folder_is_a_one_line_error(
    served: Dermnote, images: Path, drawn: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")

    assert str(file) in fail(served("notes", images, "--out", file))
    assert str(file) in fail(served("datasets", "draw", file))
    assert str(tmp_path) in fail(served("datasets", "split", drawn, "--out", tmp_path))
    assert "file" in fail(served("export", "lite", "--models-dir", file))
    assert str(file) in fail(served("datasets", "inspect", file))
    assert file.read_text() == "in the way"


def png_of(width: int, height: int) -> bytes:
    """A PNG that declares a size but has almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no picture", png_of(50_000, 50_000), png_of(9_000, 9_000), png_of(64, 64)],
    ids=["missing", "empty", "text", "bomb", "too large", "torn"],
)
def test_a_search_with_an_invalid_image_is_a_one_line_error(
    served: Dermnote, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "query.png"
    if content is not None:
        path.write_bytes(content)

    assert "query.png" in fail(served("search", path))
    assert str(tmp_path) in fail(served("search", tmp_path))


def test_searching_notes_with_an_unaligned_encoder_is_a_one_line_error(served: Dermnote, images: Path) -> None:
    line = fail(served("search", images / "images" / "0.png", "--via", "notes"))

    assert "not aligned" in line
    assert "train and activate a model" in line


def test_a_strategy_that_is_not_offered_is_a_one_line_error(
    served: Dermnote, services: Services, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Answer(body=b"[]", headers={"Content-Type": "application/json"})
    monkeypatch.setitem(services.notes.app.overrides, "GET /strategies", nothing)

    assert "does not offer strategy P2" in fail(served("notes", images, "--strategy", "P2"))


def test_the_installed_command_prints_one_line_and_exits_with_1(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "dermnote"), "datasets", "inspect", str(tmp_path / "nowhere")]

    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"error: {tmp_path / 'nowhere'}: no such folder; give a folder with metadata.csv and images/"
    ]


def test_a_warning_during_a_command_is_one_line_on_stderr(tmp_path: Path) -> None:
    app, path = make_app(), tmp_path / "seed0.safetensors"
    path.write_bytes(b"damaged")

    @app.command()
    def study_cells() -> None:
        with output.progress_bars() as progress:
            assert reusable_facts(path, digest="any") is None
            progress(Step("frozen cells", 1, 1))

    result = CliRunner().invoke(app, ["study-cells"])

    assert result.exit_code == 0, result.output
    assert result.stdout == "frozen cells: 1/1 \n"
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: {path} is damaged (")
    assert line.endswith("; computing this cell again")
