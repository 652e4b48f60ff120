"""Notes on disk: the Parquet file that training reads, and the journal from which an interrupted run resumes."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dermnote_contracts.notes import Note
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.files import atomic_write


@dataclass(frozen=True)
class NoteRow:
    """A finished note of one image, with its verification result and provenance.

    `synthetic`: whether the text is generated (always true); `synthetic_image`: whether the image is drawn. `faults`:
    the unsupported, contradicted and missing claims that the verifier reports, as JSON. `request`: sha256 of everything
    that the note depends on.
    """

    image_id: str
    dataset: str
    group: str
    label: str
    text: str
    strategy: str
    faithful: bool
    coverage: float
    faults: str
    source: str
    attempts: int
    seed: int
    model: str | None
    model_sha256: str | None
    prompt_version: str
    priors_version: str | None
    sampled_tokens: int
    synthetic: bool
    synthetic_image: bool
    request: str

    @property
    def faithful_at_first(self) -> bool:
        """Whether the first text was faithful: the language model's, or the template's for strategy M."""
        return self.faithful and self.attempts <= 1 and (self.source == "llm" or self.strategy == "M")


ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    float: pa.float64(),
    int: pa.int64(),
    str | None: pa.string(),
}
PROVENANCE = ("source", "attempts", "seed", "model", "model_sha256", "prompt_version", "priors_version", "synthetic")
SCHEMA = pa.schema([pa.field(field.name, ARROW[field.type]) for field in fields(NoteRow)])


def row_of(record: Record, note: Note, *, dataset: LesionDataset, request: str) -> NoteRow:
    """A note of the service as a row."""
    verdict, origin = note.verification, note.provenance
    faults = verdict.model_dump(mode="json", include={"unsupported", "contradicted", "missing"})
    return NoteRow(
        image_id=record.image_id,
        dataset=dataset.name,
        group=record.group,
        label=record.label,
        text=note.text,
        strategy=note.strategy,
        faithful=verdict.faithful,
        coverage=verdict.coverage,
        faults=json.dumps({name: found for name, found in faults.items() if found}),
        sampled_tokens=origin.tokens.sampled,
        synthetic_image=dataset.synthetic,
        request=request,
        **{name: getattr(origin, name) for name in PROVENANCE},
    )


def write_notes(path: Path, rows: Sequence[NoteRow]) -> None:
    """Write the Parquet file atomically."""
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), temporary)


def read_notes(path: Path) -> tuple[NoteRow, ...]:
    """Read a Parquet file of notes. Raises UserError."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a readable notes file; create one with: dermnote notes FOLDER") from error
    if missing := [name for name in SCHEMA.names if name not in table.column_names]:
        raise UserError(f"{path}: missing columns {', '.join(missing)}; write it again with: dermnote notes FOLDER")
    return tuple(NoteRow(**row) for row in table.select(SCHEMA.names).to_pylist())


def texts_for(records: Iterable[Record], rows: Sequence[NoteRow], *, source: Path) -> Mapping[str, str]:
    """image_id -> note for every record. Raises UserError with the number of images without one, and the first."""
    texts = {row.image_id: row.text for row in rows}
    missing = [record.image_id for record in records if record.image_id not in texts]
    if missing:
        raise UserError(
            f"{source}: no note for {len(missing)} images (first {missing[0]}); run dermnote notes on the same folder "
            "again"
        )
    return texts


class Journal:
    """Results of a run so far, one JSON object per line. A last line that a crash cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, NoteRow] = {}
        self.failures: dict[str, int] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            for entry in _entries(path):
                self._add(entry)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: the journal is damaged; delete it to request all notes again") from error

    def add_rows(self, rows: Sequence[NoteRow]) -> None:
        """Store finished notes; they are on disk when this returns."""
        self._append([{"row": asdict(row)} for row in rows])

    def add_failures(self, requests: Sequence[str]) -> None:
        """Count failed requests, so that the next run submits them under a new idempotency key."""
        self._append([{"failed": request} for request in requests])

    def _append(self, entries: Sequence[dict[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
            file.flush()
            os.fsync(file.fileno())
        for entry in entries:
            self._add(entry)

    def _add(self, entry: dict[str, Any]) -> None:
        if "row" in entry:
            row = NoteRow(**entry["row"])
            self.rows[row.request] = row
        else:
            self.failures[entry["failed"]] = self.failures.get(entry["failed"], 0) + 1


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open("rb+") as file:
        content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        file.truncate(len(complete))
    return [json.loads(line) for line in complete.splitlines()]
