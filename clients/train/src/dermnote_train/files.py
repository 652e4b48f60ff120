"""Atomic writes of files and folders."""

import csv
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write to a temporary path that replaces the file `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield folder / path.name
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, "utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a header and rows as CSV, atomically."""
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder that replaces the folder `path` if the block succeeds.

    The old folder is moved away first, since a folder cannot be renamed onto one with content: for an instant a reader
    may find no folder, but never a mixture of both.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        new = holder / path.name
        new.mkdir()
        yield new
        if path.exists():
            path.replace(holder / "old")
        new.replace(path)
    finally:
        shutil.rmtree(holder)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
