"""Every note set of a study from the note service, kept in files, so that only what is missing is asked for."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dermnote_contracts.metadata import Findings, LesionMetadata
from dermnote_contracts.notes import ALL_TOPICS, Topic
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.notes.blinding import BLINDED, check_blinded
from dermnote_train.notes.request import NotesPlan, write_dataset_notes
from dermnote_train.notes.table import NoteRow
from dermnote_train.progress import Report, Step
from dermnote_train.remote.notegen import NoteService
from dermnote_train.study.arms import NOTE_SETS, NoteSet
from dermnote_train.study.facts import known_facts

CLASS_ONLY: frozenset[Topic] = frozenset(("diagnosis",))
NOTHING_RECORDED = "A skin lesion. Nothing else is recorded."
"""Stands for the note of a picture of which no fact is known; no note can be written of nothing."""


@dataclass(frozen=True)
class Noted:
    """One note set of one data set. `texts`: image_id -> text, for every record; `rows`: what the service wrote."""

    rows: tuple[NoteRow, ...]
    texts: Mapping[str, str]
    without_facts: int


def note_sets(
    service: NoteService, dataset: LesionDataset, *, names: Sequence[str], seed: int, out: Path, progress: Report
) -> dict[str, Noted]:
    """The note sets `names` of a data set, below `out`; a second run asks for what is missing only.

    dataset: with findings, if any of the sets states them. Raises UserError if any note failed.
    """
    return {name: _noted(service, dataset, name=name, seed=seed, out=out / name, progress=progress) for name in names}


def _noted(service: NoteService, dataset: LesionDataset, *, name: str, seed: int, out: Path, progress: Report) -> Noted:
    asked = NOTE_SETS[name]
    stated = _asked(dataset, asked)
    writer_of = _writers(stated.records, asked)
    stated = replace(stated, records=tuple(one for one in stated.records if writer_of[one.image_id] == one.image_id))
    run = write_dataset_notes(
        service,
        stated,
        plan=NotesPlan(
            strategy=asked.strategy,
            include=CLASS_ONLY if asked.class_only else BLINDED if asked.blinded else ALL_TOPICS,
            seed=seed,
            on_unfaithful=asked.on_unfaithful,
        ),
        out=out,
        progress=lambda step: progress(replace(step, stage=f"{dataset.name}: {name} {step.stage}")),
    )
    if run.failed:
        first, reason = next(iter(run.failed.items()))
        raise UserError(
            f"{dataset.name}: {len(run.failed)} notes of {name} failed (first {first}: {reason}); run the same command "
            "again to go on"
        )
    texts = {image_id: run.texts[writer] for image_id, writer in writer_of.items()}
    bare = [record.image_id for record in dataset.records if record.image_id not in texts]
    if asked.blinded:
        check_blinded(texts, source=f"{dataset.name}, {name}")
    progress(Step(f"{dataset.name}: {name} notes", len(texts), len(texts)))
    return Noted(run.rows, texts | dict.fromkeys(bare, NOTHING_RECORDED), len(bare))


def _writers(records: Sequence[Record], asked: NoteSet) -> dict[str, str]:
    """image_id -> the image whose note it has: its own, or one of the first `copies` of equal facts, in turn."""
    first: defaultdict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    writer_of = {}
    for record in records:
        facts = _facts(record, asked)
        if asked.copies is None or len(first[facts]) < asked.copies:
            first[facts].append(record.image_id)
            writer_of[record.image_id] = record.image_id
        else:
            writer_of[record.image_id] = first[facts][counts[facts] % asked.copies]
            counts[facts] += 1
    return writer_of


def _facts(record: Record, asked: NoteSet) -> str:
    """All that a note of it may state; P3 hides the diagnosis from the model."""
    hidden = {"diagnosis", "benign_malignant"} if asked.hides_diagnosis else set()
    return record.metadata.model_dump_json(exclude=hidden, exclude_none=True)


def _asked(dataset: LesionDataset, asked: NoteSet) -> LesionDataset:
    """The records of which there is something to say, with findings where the set states them."""
    records = dataset.records
    if asked.class_only:
        records = tuple(replace(one, metadata=LesionMetadata(diagnosis=one.metadata.diagnosis)) for one in records)
    elif not asked.findings:
        records = tuple(
            replace(record, metadata=record.metadata.model_copy(update={"findings": Findings()})) for record in records
        )
    kept = tuple(
        record for record in records if known_facts(record, blinded=asked.hides_diagnosis, findings=asked.findings)
    )
    return replace(dataset, records=kept)
