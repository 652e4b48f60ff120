"""Notes on disk: an atomically written Parquet file, and a journal that survives truncation."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.notes import Claim, Note, Provenance, Tokens, Verification
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.notes.table import SCHEMA, Journal, NoteRow, read_notes, row_of, texts_for, write_notes

RECORD = Record("img-1", Path("img-1.jpg"), "drawn:p1", "MEL", LesionMetadata(age=61))
DATASET = LesionDataset("drawn", (RECORD,), ("MEL",), synthetic=True, licence="CC0-1.0")
NOTE = Note(
    text="A 61-year-old with a melanoma – “word for word”.",
    strategy="P2",
    facts=[],
    verification=Verification(
        faithful=False,
        coverage=0.5,
        unsupported=[Claim(field="sex", text="woman", start=3, end=8)],
        missing=["diagnosis"],
    ),
    provenance=Provenance(
        model="smol",
        model_sha256="a" * 64,
        prompt_version="P2-1",
        priors_version=None,
        seed=7,
        attempts=4,
        source="llm",
        tokens=Tokens(sampled=31),
    ),
)
ROW = row_of(RECORD, NOTE, dataset=DATASET, request="f" * 64)


def rows(count: int) -> list[NoteRow]:
    return [replace(ROW, image_id=f"img-{n}", text=f"note {n}", request=f"{n:064x}") for n in range(count)]


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_row_contains_the_provenance_and_faults_of_its_note() -> None:
    assert (ROW.image_id, ROW.dataset, ROW.group, ROW.label) == ("img-1", "drawn", "drawn:p1", "MEL")
    assert ROW.text == NOTE.text
    assert (ROW.model, ROW.model_sha256, ROW.prompt_version, ROW.priors_version) == ("smol", "a" * 64, "P2-1", None)
    assert (ROW.strategy, ROW.source, ROW.seed, ROW.attempts, ROW.sampled_tokens) == ("P2", "llm", 7, 4, 31)
    assert (ROW.faithful, ROW.coverage) == (False, 0.5)
    assert ROW.synthetic
    assert ROW.synthetic_image
    faults = json.loads(ROW.faults)
    assert set(faults) == {"unsupported", "missing"}
    assert faults["unsupported"][0]["text"] == "woman"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"attempts": 2}, False),
        ({"faithful": False}, False),
        ({"source": "template"}, False),
        ({"source": "template", "strategy": "M", "attempts": 0}, True),
    ],
)
def test_only_a_first_text_that_is_faithful_counts_as_faithful_at_first(
    change: dict[str, object], expected: bool
) -> None:
    row = replace(ROW, faithful=True, attempts=1)

    assert replace(row, **change).faithful_at_first is expected  # type: ignore[arg-type]


def test_rows_are_read_back_unchanged(tmp_path: Path) -> None:
    written = [*rows(3), replace(ROW, model=None, model_sha256=None, priors_version="3", text="Zeile\n\u2028ü😀")]
    write_notes(tmp_path / "new" / "notes.parquet", written)

    assert read_notes(tmp_path / "new" / "notes.parquet") == tuple(written)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.parquet"]


def test_a_table_without_rows_has_all_columns(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes.parquet", [])

    assert read_notes(tmp_path / "notes.parquet") == ()
    assert pq.read_schema(tmp_path / "notes.parquet").names == SCHEMA.names


def test_a_full_disk_leaves_the_old_file_intact(tmp_path: Path) -> None:
    path = tmp_path / "notes.parquet"
    write_notes(path, rows(2))
    before = path.read_bytes()

    with files_no_larger_than(5000), pytest.raises(OSError, match="large"):
        write_notes(path, rows(5000))

    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["notes.parquet"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_rejected(tmp_path: Path, share: float) -> None:
    path = tmp_path / "notes.parquet"
    write_notes(path, rows(500))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(UserError, match="not a readable notes file") as raised:
        read_notes(path)

    assert str(path) in str(raised.value)
    assert "dermnote notes" in str(raised.value)


def nothing(_: Path) -> None:
    """Create no file."""


def a_csv(path: Path) -> None:
    path.write_text("image_id,text\na,b\n")


@pytest.mark.parametrize("make", [nothing, a_csv, Path.mkdir])
def test_an_invalid_notes_file_is_a_one_line_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "notes.parquet")

    with pytest.raises(UserError) as raised:
        read_notes(tmp_path / "notes.parquet")

    assert len(str(raised.value).splitlines()) == 1
    assert "notes.parquet" in str(raised.value)


def test_missing_columns_of_a_parquet_file_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_id": ["a"], "text": ["b"]}), tmp_path / "notes.parquet")

    with pytest.raises(UserError, match="missing columns dataset, group, label, strategy"):
        read_notes(tmp_path / "notes.parquet")


def test_texts_are_found_by_image_and_the_first_missing_one_is_named() -> None:
    records = [replace(RECORD, image_id=f"img-{n}") for n in range(4)]

    assert texts_for(records[:3], rows(3), source=Path("n.parquet")) == {f"img-{n}": f"note {n}" for n in range(3)}
    with pytest.raises(UserError, match=r"n.parquet: no note for 2 images \(first img-2\)"):
        texts_for(records, rows(2), source=Path("n.parquet"))


def test_a_journal_is_read_back_unchanged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "notes.jsonl")
    journal.add_rows(rows(2))
    journal.add_failures(["a", "b"])
    journal.add_failures(["a"])

    again = Journal(tmp_path / "new" / "notes.jsonl")

    assert again.rows == journal.rows == {row.request: row for row in rows(2)}
    assert again.failures == {"a": 2, "b": 1}


@pytest.mark.parametrize("lost", [1, 40, 300])
def test_a_truncated_last_line_is_dropped_and_overwritten(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "notes.jsonl"
    Journal(path).add_rows(rows(3))
    path.write_bytes(path.read_bytes()[:-lost])

    cut = Journal(path)
    assert list(cut.rows.values()) == rows(2)
    cut.add_rows(rows(3)[2:])

    assert list(Journal(path).rows.values()) == rows(3)


@pytest.mark.parametrize(
    "line",
    ["not JSON", "5", "{}", '{"row": {"image_id": "of an older version"}}', '{"row": 3}', "\udcff"],
)
def test_a_damaged_journal_is_reported_with_the_next_step(tmp_path: Path, line: str) -> None:
    path = tmp_path / "notes.jsonl"
    Journal(path).add_rows(rows(1))
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape") + b"\n")

    with pytest.raises(UserError, match="the journal is damaged; delete it") as raised:
        Journal(path)

    assert str(path) in str(raised.value)
