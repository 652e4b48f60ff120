"""The arms of the study: what each is trained with, beside the pictures. Values in, values out."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dermnote_contracts.notes import OnUnfaithful, Strategy
from dermnote_train.data.labels import DIAGNOSIS_OF
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.study.facts import Stating

Texts = Mapping[str, str]
"""image_id -> text."""
Blinding = Literal["G-blinded", "G-findings-blinded"]


@dataclass(frozen=True)
class NoteSet:
    """Notes of one kind: how they are asked for. `findings`: with what was measured in the picture.

    `class_only`: from the diagnosis alone, as the paper asks for P2. `copies`: how many notes are written of equal
    facts; pictures beyond these share them in turn. None: every picture has a note of its own.
    """

    strategy: Strategy
    blinded: bool = False
    findings: bool = False
    on_unfaithful: OnUnfaithful = "retry"
    class_only: bool = False
    copies: int | None = None

    @property
    def hides_diagnosis(self) -> bool:
        """The language model is not told it: P3 is to choose one."""
        return self.blinded or self.strategy == "P3"

    @property
    def stating(self) -> Stating:
        """What its notes may state: M, P1 and P2 the diagnosis alone, whatever else is known."""
        return Stating(
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
    """One arm. `says`: what it is, for a reader; `notes`: note sets that it is trained with, one drawn for each picture
    and step; `read`: the blinded notes that it is tested with.

    `pairing`: "own" notes, those of another picture of the same class, or of any other picture. `table`: the facts of
    the blinded notes as numbers in the place of text. `shuffled_labels`: trained to tell nothing; has to sit at chance.
    """

    says: str
    notes: tuple[str, ...] = ()
    read: Blinding = "G-blinded"
    pairing: Literal["own", "class", "any"] = "own"
    table: bool = False
    class_name: bool = False
    shuffled_labels: bool = False

    @property
    def has_text(self) -> bool:
        """Whether there is anything beside the picture."""
        return bool(self.notes) or self.table or self.class_name

    @property
    def reads(self) -> bool:
        """Whether it can be tested with a blinded note: not where the text branch learns a table or a name."""
        return bool(self.notes) or self.table

    @property
    def prompted(self) -> bool:
        """Whether class prompts can be put to it: where the text branch learns from words."""
        return bool(self.notes) or self.class_name

    @property
    def learns(self) -> tuple[object, ...]:
        """Whatever of it decides what weights come out."""
        return (self.notes, self.pairing, self.table, self.class_name, self.shuffled_labels)

    @property
    def needs(self) -> tuple[str, ...]:
        """The note sets that it can't do without."""
        return tuple(dict.fromkeys((*self.notes, *((self.read,) if self.notes else ()))))


WITH_FINDINGS: Blinding = "G-findings-blinded"
ARMS: Mapping[str, Arm] = {
    "image": Arm("pictures alone"),
    "M": Arm("the paper's template: class and superclass", ("M",)),
    "P1": Arm("the paper's P1: class, and closed options, as the model wrote them", ("P1",)),
    "P2": Arm("the paper's P2: class, and a freer description, as the model wrote them", ("P2",)),
    "P3": Arm("the paper's P3: no diagnosis given, as the model wrote them", ("P3",)),
    "G": Arm("verified notes", ("G",)),
    "G-findings": Arm("verified notes, with what was measured in the picture", ("G-findings",), WITH_FINDINGS),
    "G-blinded": Arm("verified notes without the diagnosis", ("G-blinded",)),
    "G-findings-blinded": Arm(
        "verified notes without the diagnosis, with what was measured", ("G-findings-blinded",), WITH_FINDINGS
    ),
    "mixed": Arm(
        "both of the notes with what was measured, one drawn at a time",
        ("G-findings", "G-findings-blinded"),
        WITH_FINDINGS,
    ),
    "table": Arm("the facts of the blinded notes as a table, no text", (), table=True),
    "table-findings": Arm("the same with what was measured", (), WITH_FINDINGS, table=True),
    "class-name": Arm("the class's name alone", class_name=True),
    "shuffled": Arm("verified notes of other pictures of the class", ("G-findings",), WITH_FINDINGS, pairing="class"),
    "random": Arm("control: notes of any other pictures", ("G",), pairing="any"),
    "random-findings": Arm(
        "control: notes of any other pictures, with what was measured in those",
        ("G-findings",),
        WITH_FINDINGS,
        pairing="any",
    ),
    "shuffled-labels": Arm("control: labels shuffled in training", shuffled_labels=True),
}
CONTROL_OF: Mapping[Blinding, str] = {"G-blinded": "random", "G-findings-blinded": "random-findings"}
"""The arm of random notes that reads the same notes at test time."""
NAMED: frozenset[str] = frozenset(("M", "P1", "P2", "P3", "G", "G-findings"))
"""Note sets whose texts name a diagnosis: retrieval over them measures reading, not seeing."""


def training_texts(arm: Arm, records: Sequence[Record], sets: Mapping[str, Texts], *, seed: int) -> list[list[str]]:
    """The texts of an arm's training pictures: one list for each note set, in the order of `records`.

    Other pictures' texts are drawn within `records`, so nothing of a held-out picture is read.
    """
    if arm.class_name:
        return [[DIAGNOSIS_OF.get(record.label, record.label) for record in records]]
    partner = partners(arm, records, seed=seed)
    return [[sets[name][records[row].image_id] for row in partner] for name in arm.notes]


def partners(arm: Arm, records: Sequence[Record], *, seed: int) -> list[int]:
    """Whose note each record has in this arm, by its place in `records`."""
    return _PARTNERS[arm.pairing](records, seed)


def _own(records: Sequence[Record], _: int) -> list[int]:
    return list(range(len(records)))


def _any_other(records: Sequence[Record], seed: int) -> list[int]:
    """A permutation in which nobody keeps their own."""
    if len(records) < 2:
        raise UserError("one picture has no other to take a note from; use more pictures")
    order = np.random.default_rng([seed, 7]).permutation(len(records))
    partner = np.empty(len(records), dtype=int)
    partner[order] = np.roll(order, 1)
    return partner.tolist()


def _within_class(records: Sequence[Record], seed: int) -> list[int]:
    """The same within each class; a class of one picture keeps its own note."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        rows[record.label].append(row)
    partner = list(range(len(records)))
    rng = np.random.default_rng([seed, 11])
    for own in rows.values():
        order = rng.permutation(own)
        for row, other in zip(order, np.roll(order, 1), strict=True):
            partner[int(row)] = int(other)
    return partner


_PARTNERS: Mapping[str, Callable[[Sequence[Record], int], list[int]]] = {
    "own": _own,
    "any": _any_other,
    "class": _within_class,
}
