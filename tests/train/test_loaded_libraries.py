"""Each command loads only what it computes with; `--help` loads no numerical library at all."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from dermnote_train.cli import make_app
from dermnote_train.data.draw import draw_dataset
from tests.train.servers import ManualNoteService, manual_note_service, retrieval_service, valkey

SCRIPT = """
import json, sys
from dermnote_train.cli import main
sys.argv = ["dermnote", *sys.argv[1:]]
code = 0
try:
    main()
except SystemExit as error:
    code = error.code
print(json.dumps({"code": code, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}), file=sys.stderr)
"""
HEAVY = {"torch", "torchvision", "open_clip", "timm", "transformers", "numpy", "scipy", "sklearn", "skimage", "pandas"}
HEAVY |= {"pyarrow", "matplotlib", "PIL", "imagehash", "httpx", "jinja2", "onnxruntime"}
WITH_TORCH = {"train", "evaluate", "export", "study", "demo"}


def command_paths(group: TyperGroup, *above: str) -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield above
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from command_paths(command, *above, name)
        else:
            yield (*above, name)


COMMAND = typer.main.get_command(make_app())
assert isinstance(COMMAND, TyperGroup)
PATHS = [" ".join(path) for path in command_paths(COMMAND)]


def loaded(*arguments: str | Path, **environment: str) -> set[str]:
    """The top-level packages that a command has loaded, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    report = json.loads(result.stderr.splitlines()[-1])
    assert report["code"] in (0, None), result.stderr
    return set(report["loaded"])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("data") / "drawn", count=40)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManualNoteService]:
    with valkey(tmp_path_factory.mktemp("valkey")) as redis_url, manual_note_service(redis_url) as service:
        yield service


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with retrieval_service(tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.mark.parametrize("path", PATHS)
def test_help_loads_no_numerical_library(path: str) -> None:
    assert not loaded(*path.split(), "--help") & HEAVY


def test_the_commands_below_are_all_commands() -> None:
    groups = {"", "datasets"}
    here = {"datasets list", "datasets inspect", "datasets check", "datasets leakage", "datasets draw"}
    here |= {"datasets split", "findings", "notes", "index", "search"}
    downloads = {"datasets fetch"}

    assert set(PATHS) - groups == here | downloads | WITH_TORCH


@pytest.mark.parametrize("command", ["inspect", "check", "leakage", "split"])
def test_a_command_about_a_data_set_does_not_load_torch(drawn: Path, tmp_path: Path, command: str) -> None:
    out = ("--out", tmp_path / "split.csv") if command == "split" else ()

    assert "torch" not in loaded("datasets", command, drawn, *out)


def test_checking_a_data_set_loads_no_statistics(drawn: Path) -> None:
    assert not loaded("datasets", "check", drawn) & {"sklearn", "skimage", "pandas", "matplotlib", "pyarrow"}


def test_listing_and_drawing_do_not_load_torch(tmp_path: Path) -> None:
    assert "torch" not in loaded("datasets", "list")
    assert "torch" not in loaded("datasets", "draw", tmp_path / "new", "--count", "15")


def test_notes_findings_index_and_search_do_not_load_torch(
    drawn: Path, tmp_path: Path, notes: ManualNoteService, retrieval: str
) -> None:
    variables = {"DERMNOTE_HOME": str(tmp_path), "NOTEGEN_URL": notes.url, "RETRIEVAL_URL": retrieval}
    findings, image = tmp_path / "findings.csv", min((drawn / "images").iterdir())

    assert "torch" not in loaded("findings", drawn, "--limit", "10", "--out", findings, **variables)
    with notes.working():
        assert "torch" not in loaded("notes", drawn, "--limit", "10", "--findings", findings, **variables)
    assert "torch" not in loaded("index", drawn, "--limit", "10", **variables)
    assert "torch" not in loaded("search", image, "--via", "images", **variables)
