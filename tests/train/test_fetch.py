"""dermnote datasets fetch: the arguments of isic-cli and its failures. A script replaces the tool."""

import sys
from pathlib import Path

import pytest

from dermnote_train.cli.datasets import fetch
from dermnote_train.errors import UserError


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an `isic` on the PATH that runs the returned file, which the test writes."""
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
(folder / "arguments.txt").write_text("\\n".join(sys.argv[1:]))
"""


def test_the_tool_receives_the_selection(tool: Path, tmp_path: Path) -> None:
    tool.write_text(DOWNLOADS)
    fetch(tmp_path / "data", collection=[70, 65], search='diagnosis_3:"Nevus" AND sex:male', limit=10)
    assert (tmp_path / "data" / "arguments.txt").read_text().splitlines() == [
        *("image", "download", str(tmp_path / "data"), "--limit", "10"),
        *("--collections", "70,65", "--search", 'diagnosis_3:"Nevus" AND sex:male'),
    ]


def test_everything_is_downloaded_by_default(tool: Path, tmp_path: Path) -> None:
    tool.write_text(DOWNLOADS)
    fetch(tmp_path / "data")
    arguments = (tmp_path / "data" / "arguments.txt").read_text().splitlines()
    assert arguments == ["image", "download", str(tmp_path / "data"), "--limit", "0"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [("raise SystemExit(3)", "failed with exit code 3"), ("", "wrote no metadata.csv")],
    ids=["fails", "nothing"],
)
def test_a_failed_download_is_reported(tool: Path, tmp_path: Path, script: str, reason: str) -> None:
    tool.write_text(script)
    with pytest.raises(UserError, match=reason):
        fetch(tmp_path / "data")


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="pip install isic-cli"):
        fetch(tmp_path / "data")
