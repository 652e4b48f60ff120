"""The vector index of one route: exact inner product over unit vectors. The only file that imports faiss.

Derived from the store and never its equal: it knows item numbers and vectors, and is rebuilt at every start.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt

# The `type: ignore`s below: faiss's stubs describe its C++ methods, not the numpy ones that wrap them.
Numbers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Selection:
    """Which items may come back: those in `allowed` (None: all) that are not in `barred`."""

    allowed: Numbers | None = None
    barred: Numbers | None = None


EVERYTHING = Selection()


class VectorIndex(Protocol):
    """An index that many threads may use."""

    @property
    def kind(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def replace(self, *, gone: Sequence[int], numbers: Sequence[int], vectors: Vectors) -> None:
        """Take out `gone` and the old vectors of `numbers`, then add `vectors` [n, dim] for them, in one step."""
        ...

    def search(self, vector: Vectors, *, k: int, among: Selection = EVERYTHING) -> list[tuple[int, float]]:
        """(number, cosine) of the `k` nearest in `among`, best first; fewer only when there are fewer."""
        ...

    def vector(self, number: int) -> Vectors | None:
        """The vector of an item, or None."""
        ...


class FlatIndex:
    """Exact search. One lock for readers and writers: a search over 100,000 vectors takes milliseconds."""

    kind = "flat"

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._faiss = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    def replace(self, *, gone: Sequence[int], numbers: Sequence[int], vectors: Vectors) -> None:
        with self._lock:
            old = self._held.intersection([*gone, *numbers])
            if old:
                self._faiss.remove_ids(np.array(sorted(old), dtype=np.int64))  # type: ignore[arg-type]
                self._held -= old
            if numbers:
                self._faiss.add_with_ids(
                    np.ascontiguousarray(vectors, dtype=np.float32), np.array(numbers, dtype=np.int64)
                )
                self._held.update(numbers)

    def search(self, vector: Vectors, *, k: int, among: Selection = EVERYTHING) -> list[tuple[int, float]]:
        if among.allowed is not None and not len(among.allowed):
            return []
        with self._lock:
            # For one query a team of threads costs more than it saves, and far more when the cores are busy.
            faiss.omp_set_num_threads(1)
            k = min(k, len(self))
            if k == 0:
                return []
            parameters = faiss.SearchParameters(sel=_selector(among))  # type: ignore[call-arg]
            scores, numbers = self._faiss.search(vector.reshape(1, -1), k, params=parameters)
        return [(int(n), float(s)) for n, s in zip(numbers[0], scores[0], strict=True) if n >= 0]

    def vector(self, number: int) -> Vectors | None:
        with self._lock:
            if number not in self._held:
                return None
            found: Vectors = self._faiss.reconstruct(number)  # type: ignore[assignment]
            return found


def _selector(among: Selection) -> faiss.IDSelector | None:
    allowed = None if among.allowed is None else faiss.IDSelectorBatch(among.allowed)
    barred = (
        None
        if among.barred is None or not len(among.barred)
        else faiss.IDSelectorNot(faiss.IDSelectorBatch(among.barred))
    )
    if allowed is not None and barred is not None:
        return faiss.IDSelectorAnd(allowed, barred)
    return allowed if allowed is not None else barred
