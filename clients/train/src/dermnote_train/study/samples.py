"""Notes of drawn lesions: what a report may show of notes when the data is not ours to show."""

from dataclasses import dataclass, replace
from pathlib import Path

from dermnote_train.data.adapters import load_dataset
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.data.splits import balanced_part
from dermnote_train.findings.table import measure_dataset, with_findings, write_findings
from dermnote_train.notes.table import NoteRow
from dermnote_train.progress import Report
from dermnote_train.remote.notegen import NoteService
from dermnote_train.study.arms import NOTE_SETS
from dermnote_train.study.cells.cell import needed_sets
from dermnote_train.study.facts import with_only
from dermnote_train.study.note_sets import note_sets
from dermnote_train.study.runner import StudyState

DRAWN, SHOWN = 40, 3


@dataclass(frozen=True)
class Sample:
    """A drawn lesion and its notes by note set, word for word."""

    record: Record
    notes: dict[str, NoteRow]


def drawn_samples(
    service: NoteService, state: StudyState, *, folder: Path, out: Path, progress: Report
) -> tuple[Sample, ...]:
    """SHOWN drawn lesions with a note of every set that the study uses, from the facts that it uses."""
    names = needed_sets(state.plan)
    drawn = load_dataset(draw_dataset(folder, count=DRAWN, seed=0, progress=progress))
    few = balanced_part(drawn.records, limit=SHOWN, seed=1)
    dataset = with_only(replace(drawn, records=few), state.data.facts)
    if any(NOTE_SETS[name].findings for name in names):
        dataset = _with_findings(dataset, path=out / "findings.csv")
    noted = note_sets(service, dataset, names=names, seed=0, out=out, progress=progress)
    rows = {name: {row.image_id: row for row in one.rows} for name, one in noted.items()}
    return tuple(_sample(record, rows) for record in dataset.records)


def _with_findings(dataset: LesionDataset, *, path: Path) -> LesionDataset:
    write_findings(path, measure_dataset(dataset.records))
    return replace(dataset, records=with_findings(dataset.records, path))


def _sample(record: Record, rows: dict[str, dict[str, NoteRow]]) -> Sample:
    return Sample(record, {name: by_id[record.image_id] for name, by_id in rows.items() if record.image_id in by_id})
