"""Item numbers to rows of a matrix without gaps, and back. Both directions are arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dermnote_retrieval.index.types import Numbers

MISSING = -1


class IdMap:
    """Item numbers (positive, growing, rarely reused) to rows 0..n-1."""

    def __init__(self) -> None:
        self._numbers = np.empty(0, np.int64)
        self._row = np.empty(0, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def numbers(self) -> Numbers:
        """The number of each row."""
        return self._numbers[: self._count]

    @property
    def bytes_(self) -> int:
        """Memory of both arrays."""
        return self._numbers.nbytes + self._row.nbytes

    def rows(self, numbers: Sequence[int] | Numbers) -> npt.NDArray[np.int64]:
        """The row of each number; MISSING for unknown numbers."""
        given = np.asarray(numbers, dtype=np.int64)
        known = (given >= 0) & (given < len(self._row))
        rows = np.full(len(given), MISSING, np.int64)
        rows[known] = self._row[given[known]]
        return rows

    def append(self, numbers: Sequence[int] | Numbers) -> None:
        """Add rows at the end for new numbers."""
        new = np.asarray(numbers, dtype=np.int64)
        if not len(new):
            return
        end = self._count + len(new)
        self._numbers = _grown(self._numbers, end, fill=0)
        self._row = _grown(self._row, int(new.max()) + 1, fill=MISSING)
        self._numbers[self._count : end] = new
        self._row[new] = np.arange(self._count, end)
        self._count = end

    def remove(self, number: int) -> tuple[int, int]:
        """Remove a number; the last row moves into its place. Returns (row that is filled, row that moved)."""
        row, last = int(self._row[number]), self._count - 1
        moved = int(self._numbers[last])
        self._numbers[row], self._row[moved] = moved, row
        self._row[number] = MISSING
        self._count = last
        return row, last


def _grown(values: npt.NDArray[np.int64], size: int, *, fill: int) -> npt.NDArray[np.int64]:
    if size <= len(values):
        return values
    wider = np.full(max(size, len(values) + len(values) // 2, 1024), fill, np.int64)
    wider[: len(values)] = values
    return wider
