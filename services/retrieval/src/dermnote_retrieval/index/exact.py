"""The exact vectors of one route, row by row in one block of memory. Not for more than one thread at a time."""

from collections.abc import Sequence

import numpy as np

from dermnote_retrieval.index.faiss_backend import Mask, exact
from dermnote_retrieval.index.id_map import NOWHERE, Rows
from dermnote_retrieval.index.scan import is_for_scan, scanned
from dermnote_retrieval.index.types import Found, Numbers, Selection, Vectors

FIRST_ROWS = 1024


class Matrix:
    """Unit vectors [n, dim] and the item number of each. Changing one moves no other but the last."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.rows = Rows()
        self._block = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def vectors(self) -> Vectors:
        """All vectors [n, dim]: a view, valid until the next change."""
        return self._block[: len(self.rows)]

    @property
    def bytes_(self) -> int:
        """Memory, what is reserved for growth included."""
        return self._block.nbytes + self.rows.bytes_

    def reserve(self, count: int) -> None:
        """Room for `count` vectors in all, so that adding them copies nothing."""
        if count > len(self._block):
            block = np.empty((count, self.dim), np.float32)
            block[: len(self)] = self.vectors
            self._block = block

    def adopt(self, numbers: Numbers, vectors: Vectors) -> None:
        """Hold exactly these; `vectors` [n, dim] becomes the matrix' own memory."""
        self.rows = Rows()
        self.rows.append(numbers)
        self._block = np.ascontiguousarray(vectors, dtype=np.float32)

    def replace(self, *, gone: Sequence[int], numbers: Sequence[int] | Numbers, vectors: Vectors) -> None:
        """Take out `gone`, write `vectors` [n, dim] over or behind what is held."""
        new = np.asarray(numbers, dtype=np.int64)
        for number in set(gone) - set(new.tolist()):
            if self.rows.of([number])[0] != NOWHERE:
                row, last = self.rows.drop(number)
                self._block[row] = self._block[last]
        at = self.rows.of(new)
        held = at != NOWHERE
        self._block[at[held]] = vectors[held]
        if not held.all():
            self._append(new[~held], vectors[~held])

    def _append(self, numbers: Numbers, vectors: Vectors) -> None:
        end = len(self) + len(numbers)
        if end > len(self._block):
            self.reserve(max(end, len(self._block) * 3 // 2, FIRST_ROWS))
        self._block[len(self) : end] = vectors
        self.rows.append(numbers)

    def vectors_of(self, numbers: Sequence[int]) -> list[Vectors | None]:
        """Copies of vectors [dim], None for numbers that are not held."""
        rows = self.rows.of(numbers)
        copies = iter(self._block[rows[rows != NOWHERE]])
        return [None if row == NOWHERE else next(copies) for row in rows.tolist()]

    def of(self, numbers: Sequence[int] | Numbers) -> Vectors:
        """Copies [n, dim] of the vectors of numbers that are held."""
        found: Vectors = self._block[self.rows.of(numbers)]
        return found

    def mask(self, among: Selection) -> Mask | None:
        """Which rows a selection lets through [n]; None for all."""
        if among.everything:
            return None
        allowed = np.full(len(self), among.allowed is None)
        if among.allowed is not None:
            allowed[self._held(among.allowed)] = True
        if among.barred is not None:
            allowed[self._held(among.barred)] = False
        return allowed

    def _held(self, numbers: Numbers) -> Numbers:
        rows = self.rows.of(numbers)
        held: Numbers = rows[rows != NOWHERE]
        return held

    def search(self, vectors: Vectors, *, k: int, allowed: Mask | None) -> list[Found]:
        """Exact: the `k` nearest rows of each of `vectors` [q, dim] among the allowed."""
        left = len(self) if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, left)
        if k == 0:
            return [[] for _ in vectors]
        one_go = is_for_scan(queries=len(vectors), rows=len(self), left=left)
        scores, rows = (scanned if one_go else exact)(vectors, self.vectors, k=k, allowed=allowed)
        return [self._found(r, s) for r, s in zip(rows, scores, strict=True)]

    def ranked(self, vector: Vectors, numbers: Numbers, *, k: int) -> Found:
        """The `k` best of the candidates `numbers` by the exact vectors; equal scores in the order of their numbers."""
        rows = self._held(numbers)
        scores = self._block[rows] @ vector
        best = np.lexsort((self.rows.numbers[rows], -scores))[:k]
        return self._found(rows[best], scores[best])

    def _found(self, rows: Numbers, scores: Vectors) -> Found:
        there = rows != NOWHERE
        return list(zip(self.rows.numbers[rows[there]].tolist(), scores[there].tolist(), strict=True))
