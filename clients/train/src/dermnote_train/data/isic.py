"""Fetching from the ISIC Archive through its own command line tool, isic-cli."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dermnote_train.errors import UserError

TOOL = "isic"


def fetch(folder: Path, *, collections: Sequence[int] = (), search: str | None = None, limit: int = 0) -> None:
    """Download images and metadata.csv into a folder; the tool shows its own progress. `limit`: 0 for all.

    Raises UserError where the tool is not installed, or fails.
    """
    tool = shutil.which(TOOL)
    if tool is None:
        raise UserError("the command isic is not installed; install it with: pip install isic-cli")
    command = [tool, "image", "download", str(folder), "--limit", str(limit)]
    if collections:
        command += ["--collections", ",".join(map(str, collections))]
    if search:
        command += ["--search", search]
    ended = subprocess.run(command, check=False)  # noqa: S603 - a list, no shell
    if ended.returncode != 0:
        raise UserError(f"isic-cli ended with {ended.returncode}; what it said stands above")
    if not (folder / "metadata.csv").is_file():
        raise UserError(f"{folder}: isic-cli wrote no metadata.csv; nothing may have been found")
