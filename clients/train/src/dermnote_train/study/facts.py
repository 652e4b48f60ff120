"""The facts that a study's notes may state: those that every data set has, so that notes do not reveal their source.

Also gives these facts in other forms than sentences: as a list, and as a table of numbers. Pure functions.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dermnote_contracts.metadata import walk
from dermnote_train.data.presence import without
from dermnote_train.data.records import LesionDataset, Record

MIN_FILLED = 0.5
DIAGNOSIS_FIELDS = ("diagnosis", "benign_malignant")
"""Fields that a blinded note must not use."""
FINDINGS = "findings"
YEARS_PER_AGE_COLUMN = 10


def common_facts(datasets: Sequence[LesionDataset]) -> tuple[str, ...]:
    """The paths of the facts ("age", "symptoms.itch") that at least half of the records of every data set have."""
    shares = [_filled_shares(dataset) for dataset in datasets]
    return tuple(sorted(path for path in shares[0] if all(one.get(path, 0) >= MIN_FILLED for one in shares)))


def _filled_shares(dataset: LesionDataset) -> dict[str, float]:
    counts = Counter(path for record in dataset.records for path, _ in walk(record.metadata.given()))
    return {path: count / len(dataset.records) for path, count in counts.items()}


def keep_facts(dataset: LesionDataset, paths: Sequence[str]) -> LesionDataset:
    """The data set with only these facts, the diagnoses and the findings."""
    kept = {*paths, "diagnosis"}
    dropped = [path for path in _filled_shares(dataset) if path not in kept and not path.startswith(FINDINGS)]
    return replace(dataset, records=without(dataset.records, dropped))


@dataclass(frozen=True)
class FactScope:
    """The facts that a note may state: the diagnosis (with malignancy), findings, all other facts."""

    diagnosis: bool
    findings: bool
    others: bool

    def includes(self, field: str) -> bool:
        """Whether a note may state a top-level field of the metadata."""
        if field in DIAGNOSIS_FIELDS:
            return self.diagnosis
        return self.findings if field == FINDINGS else self.others


def list_facts(record: Record, *, scope: FactScope) -> str:
    """The facts that a note of a record may state, as text: "age: 45; anatomical site: back"."""
    facts = {name: value for name, value in record.metadata.given().items() if scope.includes(name)}
    return "; ".join(f"{_label(path)}: {_text(value)}" for path, value in walk(facts)) or "nothing recorded"


def _label(path: str) -> str:
    return path.rpartition(".")[2].replace("_", " ")


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def has_facts(record: Record, *, blinded: bool, findings: bool) -> bool:
    """Whether a note of a record could state anything."""
    scope = FactScope(diagnosis=not blinded, findings=findings, others=True)
    return any(scope.includes(name) for name in record.metadata.given())


class FactTable:
    """All facts except the diagnosis, as numbers: one column (0 or 1) for each value in the training records.

    Ages have a column per decade and a last column, years / 100. Values that no training record has are ignored.
    """

    def __init__(self, records: Sequence[Record], *, findings: bool) -> None:
        self.scope = FactScope(diagnosis=False, findings=findings, others=True)
        values = {value for record in records for value in self._values(record)}
        self.columns = {value: column for column, value in enumerate(sorted(values))}

    def rows(self, records: Sequence[Record]) -> NDArray[np.float32]:
        """float32 [n, columns + 1]; the last column is the age."""
        table = np.zeros((len(records), len(self.columns) + 1), dtype=np.float32)
        for row, record in enumerate(records):
            for value in self._values(record):
                if value in self.columns:
                    table[row, self.columns[value]] = 1.0
            table[row, -1] = (record.metadata.age or 0) / 100
        return table

    def _values(self, record: Record) -> Iterator[str]:
        for path, value in walk(record.metadata.given()):
            if self.scope.includes(path.partition(".")[0]):
                terms = value if isinstance(value, list) else [value]
                if path == "age":
                    terms = [int(value) // YEARS_PER_AGE_COLUMN]
                yield from (f"{path}={term}" for term in terms)
