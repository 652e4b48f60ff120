"""Gets every note set of a study from the note service, and keeps the notes in files, so that only missing ones are
requested."""

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
from dermnote_train.study.facts import DIAGNOSIS_FIELDS, has_facts

CLASS_ONLY: frozenset[Topic] = frozenset(("diagnosis",))
NOTHING_RECORDED = "A skin lesion. Nothing else is recorded."
"""Replaces the note of an image without known facts, from which no note can be written."""


@dataclass(frozen=True)
class NoteSetTexts:
    """One note set of one data set. `texts`: image_id -> text, for every record.

    `rows`: the notes that the service wrote; `without_facts`: number of records without any fact to state.
    """

    rows: tuple[NoteRow, ...]
    texts: Mapping[str, str]
    without_facts: int


def write_note_sets(
    service: NoteService, dataset: LesionDataset, *, names: Sequence[str], seed: int, out: Path, progress: Report
) -> dict[str, NoteSetTexts]:
    """The note sets `names` of a data set, stored below `out`; a second run requests only missing notes.

    dataset: must contain the findings if any of the sets states them. Raises UserError if any note failed.
    """
    return {
        name: _write_set(service, dataset, name=name, seed=seed, out=out / name, progress=progress) for name in names
    }


def _write_set(
    service: NoteService, dataset: LesionDataset, *, name: str, seed: int, out: Path, progress: Report
) -> NoteSetTexts:
    note_set = NOTE_SETS[name]
    records = _statable_records(dataset.records, note_set)
    source_of = _note_sources(records, note_set)
    run = write_dataset_notes(
        service,
        replace(dataset, records=tuple(one for one in records if source_of[one.image_id] == one.image_id)),
        plan=NotesPlan(
            strategy=note_set.strategy,
            include=CLASS_ONLY if note_set.class_only else BLINDED if note_set.blinded else ALL_TOPICS,
            seed=seed,
            on_unfaithful=note_set.on_unfaithful,
        ),
        out=out,
        progress=lambda step: progress(replace(step, stage=f"{dataset.name}: {name} {step.stage}")),
    )
    if run.failed:
        first, reason = next(iter(run.failed.items()))
        raise UserError(
            f"{dataset.name}: {len(run.failed)} notes of {name} failed (first {first}: {reason}); run the same command "
            "again to resume"
        )
    texts = {image_id: run.texts[source] for image_id, source in source_of.items()}
    without_facts = [record.image_id for record in dataset.records if record.image_id not in texts]
    if note_set.blinded:
        check_blinded(texts, source=f"{dataset.name}, {name}")
    progress(Step(f"{dataset.name}: {name} notes", len(texts), len(texts)))
    return NoteSetTexts(run.rows, texts | dict.fromkeys(without_facts, NOTHING_RECORDED), len(without_facts))


def _note_sources(records: Sequence[Record], note_set: NoteSet) -> dict[str, str]:
    """image_id -> the image whose note it uses: itself, or in turn one of the first `copies` with equal facts."""
    sources: defaultdict[str, list[str]] = defaultdict(list)
    shared: Counter[str] = Counter()
    source_of = {}
    # P3 hides the diagnosis from the language model, so facts that differ only in the diagnosis are equal.
    hidden = set(DIAGNOSIS_FIELDS) if note_set.hides_diagnosis else set()
    for record in records:
        facts = record.metadata.model_dump_json(exclude=hidden, exclude_none=True)
        if note_set.copies is None or len(sources[facts]) < note_set.copies:
            sources[facts].append(record.image_id)
            source_of[record.image_id] = record.image_id
        else:
            source_of[record.image_id] = sources[facts][shared[facts] % note_set.copies]
            shared[facts] += 1
    return source_of


def _statable_records(records: Sequence[Record], note_set: NoteSet) -> tuple[Record, ...]:
    """The records that have facts to state, reduced to the fields that the note set uses."""
    if note_set.class_only:
        records = [replace(one, metadata=LesionMetadata(diagnosis=one.metadata.diagnosis)) for one in records]
    elif not note_set.findings:
        records = [replace(one, metadata=one.metadata.model_copy(update={"findings": Findings()})) for one in records]
    return tuple(one for one in records if has_facts(one, blinded=note_set.hides_diagnosis, findings=note_set.findings))
