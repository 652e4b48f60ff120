"""A note's facts as numbers, for the arm that has the facts without the words. Values in, values out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dermnote_contracts.metadata import walk
from dermnote_train.data.records import Record
from dermnote_train.study.facts import FINDINGS, HIDDEN

DECADE = 10


class FactTable:
    """One column a value of each fact, learnt from training records: 1 where a record has it, else 0.

    Ages stand in decades and as a number (years / 100). A value that no training record has is no column.
    """

    def __init__(self, records: Sequence[Record], *, findings: bool) -> None:
        self.findings = findings
        values = {value for record in records for value in _values(record, findings=findings)}
        self.columns = {value: place for place, value in enumerate(sorted(values))}

    def rows(self, records: Sequence[Record]) -> Tensor:
        """float32 [n, columns + 1]; the last is the age."""
        table = torch.zeros((len(records), len(self.columns) + 1))
        for row, record in enumerate(records):
            for value in _values(record, findings=self.findings):
                if value in self.columns:
                    table[row, self.columns[value]] = 1.0
            table[row, -1] = (record.metadata.age or 0) / 100
        return table


def _values(record: Record, *, findings: bool) -> list[str]:
    found = []
    for path, value in walk(record.metadata.given()):
        head = path.partition(".")[0]
        if head in HIDDEN or (head == FINDINGS and not findings):
            continue
        found += [f"{path}={one}" for one in _terms(path, value)]
    return found


def _terms(path: str, value: Any) -> list[str]:
    if path == "age":
        return [str(int(value) // DECADE)]
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]
