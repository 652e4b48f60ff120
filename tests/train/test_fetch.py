"""Fetching from the ISIC Archive: what its tool is told, and what becomes of it. The tool is a script here."""

import sys
from pathlib import Path

import pytest

from dermnote_train.cli.datasets import fetch
from dermnote_train.errors import UserError


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts an `isic` on the path that runs what a test writes into the file that is returned."""
    script = tmp_path / "bin" / "isic"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "isic.py"} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    return tmp_path / "isic.py"


DOWNLOADS = """
import pathlib, sys
folder = pathlib.Path(sys.argv[3])
folder.mkdir()
(folder / "metadata.csv").write_text("isic_id\\n")
(folder / "told.txt").write_text("\\n".join(sys.argv[1:]))
"""


def test_the_tool_receives_the_selection(tool: Path, tmp_path: Path) -> None:
    tool.write_text(DOWNLOADS)
    fetch(tmp_path / "data", collection=[70, 65], search='diagnosis_3:"Nevus" AND sex:male', limit=10)
    assert (tmp_path / "data" / "told.txt").read_text().splitlines() == [
        *("image", "download", str(tmp_path / "data"), "--limit", "10"),
        *("--collections", "70,65", "--search", 'diagnosis_3:"Nevus" AND sex:male'),
    ]


def test_everything_is_downloaded_by_default(tool: Path, tmp_path: Path) -> None:
    tool.write_text(DOWNLOADS)
    fetch(tmp_path / "data")
    told = (tmp_path / "data" / "told.txt").read_text().splitlines()
    assert told == ["image", "download", str(tmp_path / "data"), "--limit", "0"]


@pytest.mark.parametrize(
    ("script", "why"),
    [("raise SystemExit(3)", "failed with exit code 3"), ("", "wrote no metadata.csv")],
    ids=["fails", "nothing"],
)
def test_a_failed_download_is_reported(tool: Path, tmp_path: Path, script: str, why: str) -> None:
    tool.write_text(script)
    with pytest.raises(UserError, match=why):
        fetch(tmp_path / "data")


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="pip install isic-cli"):
        fetch(tmp_path / "data")
