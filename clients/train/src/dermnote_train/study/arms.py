"""The arms of the study: the texts that each is trained with, in addition to the images. Pure functions."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dermnote_contracts.notes import OnUnfaithful, Strategy
from dermnote_train.data.labels import DIAGNOSIS_OF
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.study.facts import FactScope

Texts = Mapping[str, str]
"""image_id -> text."""
BlindedSet = Literal["G-blinded", "G-findings-blinded"]


@dataclass(frozen=True)
class NoteSet:
    """The notes of one kind. `findings`: they state the findings measured in the image.

    `class_only`: they are written from the diagnosis alone, as in the paper. `copies`: how many notes are
    written for all images with equal facts, which use them in turn; None: every image has its own note.
    """

    strategy: Strategy
    blinded: bool = False
    findings: bool = False
    on_unfaithful: OnUnfaithful = "retry"
    class_only: bool = False
    copies: int | None = None

    @property
    def hides_diagnosis(self) -> bool:
        """Whether the language model is not given the diagnosis; with P3 it chooses one itself."""
        return self.blinded or self.strategy == "P3"

    @property
    def scope(self) -> FactScope:
        """The facts that its notes may state; M, P1 and P2 state the diagnosis alone."""
        return FactScope(
            diagnosis=not self.hides_diagnosis,
            findings=self.findings,
            others=self.strategy not in ("M", "P1", "P2"),
        )


NOTE_SETS: Mapping[str, NoteSet] = {
    "M": NoteSet("M"),
    "P1": NoteSet("P1", on_unfaithful="keep", class_only=True, copies=24),
    "P2": NoteSet("P2", on_unfaithful="keep", class_only=True, copies=24),
    "P3": NoteSet("P3", on_unfaithful="keep", copies=1),
    "G": NoteSet("G"),
    "G-findings": NoteSet("G", findings=True),
    "G-blinded": NoteSet("G", blinded=True),
    "G-findings-blinded": NoteSet("G", blinded=True, findings=True),
}


@dataclass(frozen=True)
class Arm:
    """One arm. `notes`: the note sets it is trained with, one drawn per image and step; `test_notes`: the blinded notes
    it is tested with.

    `pairing`: each image gets its own notes, those of another image of its class, or those of any other image.
    `table`: the text is replaced by the facts of the blinded notes, as numbers. `shuffled_labels`: the training labels
    are shuffled; this control must stay at chance.
    """

    description: str
    notes: tuple[str, ...] = ()
    test_notes: BlindedSet = "G-blinded"
    pairing: Literal["own", "class", "any"] = "own"
    table: bool = False
    class_name: bool = False
    shuffled_labels: bool = False

    @property
    def has_text(self) -> bool:
        """Whether the text branch is trained."""
        return bool(self.notes) or self.table or self.class_name

    @property
    def uses_test_notes(self) -> bool:
        """Whether it can be tested with a blinded note, or with the note's facts as a table."""
        return bool(self.notes) or self.table

    @property
    def uses_prompts(self) -> bool:
        """Whether it can be tested with class prompts: its text branch is trained on words."""
        return bool(self.notes) or self.class_name

    @property
    def training_key(self) -> tuple[object, ...]:
        """The settings that determine the trained weights."""
        return (self.notes, self.pairing, self.table, self.class_name, self.shuffled_labels)

    @property
    def required_sets(self) -> tuple[str, ...]:
        """The note sets for training and testing."""
        return tuple(dict.fromkeys((*self.notes, *((self.test_notes,) if self.notes else ()))))


WITH_FINDINGS: BlindedSet = "G-findings-blinded"
ARMS: Mapping[str, Arm] = {
    "image": Arm("images alone"),
    "M": Arm("the paper's template: class and superclass", ("M",)),
    "P1": Arm("the paper's P1 notes as the model wrote them: class and fixed lists of terms", ("P1",)),
    "P2": Arm("the paper's P2 notes as the model wrote them: class and a freer description", ("P2",)),
    "P3": Arm("the paper's P3 notes as the model wrote them: no diagnosis given", ("P3",)),
    "G": Arm("verified notes", ("G",)),
    "G-findings": Arm("verified notes with the findings measured in the image", ("G-findings",), WITH_FINDINGS),
    "G-blinded": Arm("verified notes without the diagnosis", ("G-blinded",)),
    "G-findings-blinded": Arm(
        "verified notes without the diagnosis, with measured findings", ("G-findings-blinded",), WITH_FINDINGS
    ),
    "mixed": Arm(
        "verified notes with measured findings, with or without the diagnosis, one drawn per step",
        ("G-findings", "G-findings-blinded"),
        WITH_FINDINGS,
    ),
    "table": Arm("the facts of the blinded notes as a table, without text", (), table=True),
    "table-findings": Arm(
        "the facts of the blinded notes with measured findings as a table, without text", (), WITH_FINDINGS, table=True
    ),
    "class-name": Arm("the class name alone", class_name=True),
    "shuffled": Arm(
        "control: verified notes of other images of the class", ("G-findings",), WITH_FINDINGS, pairing="class"
    ),
    "random": Arm("control: notes of any other images", ("G",), pairing="any"),
    "random-findings": Arm(
        "control: notes of any other images, with the findings measured there",
        ("G-findings",),
        WITH_FINDINGS,
        pairing="any",
    ),
    "shuffled-labels": Arm("control: labels shuffled in training", shuffled_labels=True),
}
CONTROL_OF: Mapping[BlindedSet, str] = {"G-blinded": "random", "G-findings-blinded": "random-findings"}
"""Blinded note set -> the arm that is trained with random notes and tested with this set."""
NAMING_SETS: frozenset[str] = frozenset(("M", "P1", "P2", "P3", "G", "G-findings"))
"""Note sets whose texts name a diagnosis: retrieval over them measures reading, not vision."""


def training_texts(arm: Arm, records: Sequence[Record], sets: Mapping[str, Texts], *, seed: int) -> list[list[str]]:
    """The texts of an arm's training images: one list per note set, each in the order of `records`.

    Texts of other images come from `records` only, so held-out images contribute nothing.
    """
    if arm.class_name:
        return [[DIAGNOSIS_OF.get(record.label, record.label) for record in records]]
    owners = note_owners(arm, records, seed=seed)
    return [[sets[name][records[row].image_id] for row in owners] for name in arm.notes]


def note_owners(arm: Arm, records: Sequence[Record], *, seed: int) -> list[int]:
    """For each record, the row of the record whose note it gets in this arm."""
    return _OWNERS[arm.pairing](records, seed)


def _own(records: Sequence[Record], _: int) -> list[int]:
    return list(range(len(records)))


def _any_other(records: Sequence[Record], seed: int) -> list[int]:
    """A permutation without fixed points."""
    if len(records) < 2:
        raise UserError("a single image has no other image to take a note from; use more images")
    order = np.random.default_rng([seed, 7]).permutation(len(records))
    owners = np.empty(len(records), dtype=int)
    owners[order] = np.roll(order, 1)
    return owners.tolist()


def _within_class(records: Sequence[Record], seed: int) -> list[int]:
    """A permutation without fixed points within each class, except that the only image of a class keeps its note."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        rows[record.label].append(row)
    owners = list(range(len(records)))
    rng = np.random.default_rng([seed, 11])
    for own in rows.values():
        order = rng.permutation(own)
        for row, other in zip(order, np.roll(order, 1), strict=True):
            owners[int(row)] = int(other)
    return owners


_OWNERS: Mapping[str, Callable[[Sequence[Record], int], list[int]]] = {
    "own": _own,
    "any": _any_other,
    "class": _within_class,
}
