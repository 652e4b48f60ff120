"""What is wrong with a data set, row by row, and how it is told in one line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dermnote_train.errors import UserError

SHOWN = 3


@dataclass(frozen=True)
class Fault:
    """One refused cell. The message never repeats the cell's value."""

    row: int
    column: str
    message: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.column}: {self.message}"


def faults_error(table: Path, faults: Sequence[Fault]) -> UserError:
    """All faults as one error: the first few, a count, and the command that lists them all."""
    shown = "; ".join(map(str, faults[:SHOWN]))
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    count = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
    return UserError(f"{table}: {count}: {shown}{more}. List all: dermnote datasets check {table.parent}")
