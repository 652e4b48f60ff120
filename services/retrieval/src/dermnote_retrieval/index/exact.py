"""The exact vectors of one route in one block of memory, and exact search over them. Not thread-safe.

Also the types of a search: the selection of items, and the neighbours found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import threadpoolctl

from dermnote_retrieval.index.faiss_backend import Mask, Numbers, Ranked, Vectors, exact

Neighbours = list[tuple[int, float]]
"""(item number, cosine), best first."""
MISSING = -1
FIRST_ROWS = 1024
# One matrix product is faster than FAISS for MIN_QUERIES or more queries that select at least 1/LOOSE of the rows.
# MAX_SCORES (4 bytes each) limits the product's memory.
MIN_QUERIES, LOOSE, MAX_SCORES = 4, 8, 16_000_000


@dataclass(frozen=True, eq=False)
class Selection:
    """Items that a search may return: `allowed` (None: all) without `excluded`. Compared by identity."""

    allowed: Numbers | None = None
    excluded: Numbers | None = None

    @property
    def everything(self) -> bool:
        """Whether all items are selected."""
        return self.allowed is None and (self.excluded is None or not len(self.excluded))


EVERYTHING = Selection()


class IdMap:
    """Maps item numbers (positive, assigned in ascending order) to rows 0..n-1."""

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
        wanted = np.asarray(numbers, dtype=np.int64)
        known = (wanted >= 0) & (wanted < len(self._row))
        rows = np.full(len(wanted), MISSING, np.int64)
        rows[known] = self._row[wanted[known]]
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
        """Remove a number; the last row moves into its place. Returns (the removed number's row, the last row)."""
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


class VectorMatrix:
    """Unit vectors [n, dim] and the item number of each. A removal moves only the last row."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.ids = IdMap()
        self._block = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes_(self) -> int:
        """Memory, including what is reserved for growth."""
        return self._block.nbytes + self.ids.bytes_

    def adopt(self, numbers: Numbers, vectors: Vectors) -> None:
        """Replace the content by these vectors, without a copy: the matrix keeps the array `vectors` [n, dim]."""
        self.ids = IdMap()
        self.ids.append(numbers)
        self._block = vectors

    def replace(self, *, removed: Sequence[int], numbers: Sequence[int] | Numbers, vectors: Vectors) -> None:
        """Remove `removed`, then overwrite or append `vectors` [n, dim]."""
        new = np.asarray(numbers, dtype=np.int64)
        for number in set(removed) - set(new.tolist()):
            if self.ids.rows([number])[0] != MISSING:
                row, last = self.ids.remove(number)
                self._block[row] = self._block[last]
        at = self.ids.rows(new)
        known = at != MISSING
        self._block[at[known]] = vectors[known]
        if not known.all():
            self._append(new[~known], vectors[~known])

    def _append(self, numbers: Numbers, vectors: Vectors) -> None:
        end = len(self) + len(numbers)
        if end > len(self._block):
            block = np.empty((max(end, len(self._block) * 3 // 2, FIRST_ROWS), self.dim), np.float32)
            block[: len(self)] = self._block[: len(self)]
            self._block = block
        self._block[len(self) : end] = vectors
        self.ids.append(numbers)

    def get(self, numbers: Sequence[int]) -> list[Vectors | None]:
        """Copies of vectors [dim]; None for unknown numbers."""
        rows = self.ids.rows(numbers)
        copies = iter(self._block[rows[rows != MISSING]])
        return [None if row == MISSING else next(copies) for row in rows.tolist()]

    def known(self, numbers: Numbers) -> tuple[Numbers, Vectors]:
        """The numbers that have a vector, and copies of their vectors [n, dim]."""
        rows = self.ids.rows(numbers)
        return numbers[rows != MISSING], self._block[rows[rows != MISSING]]

    def mask(self, selection: Selection) -> Mask | None:
        """Which rows are selected [n]; None for all."""
        if selection.everything:
            return None
        allowed = np.full(len(self), selection.allowed is None)
        if selection.allowed is not None:
            allowed[self._rows(selection.allowed)] = True
        if selection.excluded is not None:
            allowed[self._rows(selection.excluded)] = False
        return allowed

    def _rows(self, numbers: Numbers) -> Numbers:
        rows = self.ids.rows(numbers)
        known: Numbers = rows[rows != MISSING]
        return known

    def search(self, vectors: Vectors, *, k: int, allowed: Mask | None) -> list[Neighbours]:
        """Exact search: the `k` allowed rows that are nearest to each of `vectors` [q, dim]."""
        selected = len(self) if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, selected)
        if k == 0:
            return [[] for _ in vectors]
        by_product = product_is_faster(queries=len(vectors), rows=len(self), selected=selected)
        matrix = self._block[: len(self)]
        scores, rows = (matrix_product if by_product else exact)(vectors, matrix, k=k, allowed=allowed)
        return [self._neighbours(r, s) for r, s in zip(rows, scores, strict=True)]

    def rank(self, vector: Vectors, numbers: Numbers, *, k: int) -> Neighbours:
        """The `k` best of the candidates `numbers` by the exact vectors; equal scores are ordered by item number."""
        rows = self._rows(numbers)
        scores = self._block[rows] @ vector
        best = np.lexsort((self.ids.numbers[rows], -scores))[:k]
        return self._neighbours(rows[best], scores[best])

    def _neighbours(self, rows: Numbers, scores: Vectors) -> Neighbours:
        found = rows != MISSING
        return list(zip(self.ids.numbers[rows[found]].tolist(), scores[found].tolist(), strict=True))


def limit_blas_threads(threads: int) -> None:
    """Limit the threads of the process's BLAS libraries, for all callers."""
    threadpoolctl.threadpool_limits(threads, user_api="blas")


def product_is_faster(*, queries: int, rows: int, selected: int) -> bool:
    """Whether one matrix product beats FAISS: for one unfiltered query, or several that select at least 1/LOOSE of all.

    FAISS gives a single query one thread, and runs the queries of a filtered search one after the other. In unfiltered
    searches it multiplies block by block, and its threads wait for each other at each block. FAISS is then as fast as
    one product on idle cores, but four times slower on busy ones.
    """
    if queries == 1:
        return selected == rows
    return queries >= MIN_QUERIES and selected * LOOSE >= rows and queries * rows <= MAX_SCORES


def matrix_product(queries: Vectors, matrix: Vectors, *, k: int, allowed: Mask | None = None) -> Ranked:
    """The `k` rows of `matrix` [n, dim], n >= k > 0, with the largest inner product with each of `queries` [q, dim].

    `allowed` [n]: rows that may be returned, at least k.
    """
    scores = (matrix @ queries[0])[None] if len(queries) == 1 else queries @ matrix.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    rows = np.argpartition(scores, -k, axis=1)[:, -k:]
    best = np.take_along_axis(scores, rows, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
