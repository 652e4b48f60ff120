"""Notes on synthetic lesions (drawn by draw.py): examples for a report that must not show the study's images."""

from dataclasses import dataclass, replace
from pathlib import Path

from dermnote_train.data.adapters import load_dataset
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.records import Record
from dermnote_train.data.splits import balanced_part
from dermnote_train.findings.table import measure_dataset, with_findings, write_findings
from dermnote_train.notes.table import NoteRow
from dermnote_train.progress import Report
from dermnote_train.remote.notegen import NoteService
from dermnote_train.study.arms import NOTE_SETS
from dermnote_train.study.cells.cell import required_sets
from dermnote_train.study.facts import keep_facts
from dermnote_train.study.note_sets import write_note_sets
from dermnote_train.study.runner import StudyState

DRAWN, SHOWN = 40, 3


@dataclass(frozen=True)
class Sample:
    """A synthetic lesion and its note from each note set."""

    record: Record
    notes: dict[str, NoteRow]


def drawn_samples(
    service: NoteService, state: StudyState, *, folder: Path, out: Path, progress: Report
) -> tuple[Sample, ...]:
    """SHOWN synthetic lesions with a note of every note set, written from the kinds of facts that the study uses."""
    names = required_sets(state.plan)
    drawn = load_dataset(draw_dataset(folder, count=DRAWN, seed=0, progress=progress))
    dataset = keep_facts(replace(drawn, records=balanced_part(drawn.records, limit=SHOWN, seed=1)), state.data.facts)
    if any(NOTE_SETS[name].findings for name in names):
        write_findings(out / "findings.csv", measure_dataset(dataset.records))
        dataset = replace(dataset, records=with_findings(dataset.records, out / "findings.csv"))
    notes = write_note_sets(service, dataset, names=names, seed=0, out=out, progress=progress)
    rows = {name: {row.image_id: row for row in one.rows} for name, one in notes.items()}
    return tuple(
        Sample(record, {name: by_id[record.image_id] for name, by_id in rows.items() if record.image_id in by_id})
        for record in dataset.records
    )
