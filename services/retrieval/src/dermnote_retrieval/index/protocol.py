"""What an index is, and which items a search may find."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Selection:
    """Which items may come back: those in `allowed` (None: all) that are not in `barred`. Equal if the same object."""

    allowed: Numbers | None = None
    barred: Numbers | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.allowed is None and (self.barred is None or not len(self.barred))


EVERYTHING = Selection()
Found = list[tuple[int, float]]
"""(number, cosine), best first."""


@dataclass(frozen=True)
class Recall:
    """Share of the exact `k` nearest that an index finds, over `queries` of its own vectors."""

    k: int
    queries: int
    value: float


class VectorIndex(Protocol):
    """An index that many threads may use."""

    @property
    def kind(self) -> str:
        """How it searches: flat is exact."""
        ...

    @property
    def dim(self) -> int:
        """Values of a vector."""
        ...

    @property
    def recall(self) -> Recall | None:
        """As measured when it was built; None where it is exact."""
        ...

    @property
    def bytes_(self) -> int:
        """Memory of its vectors and lists."""
        ...

    def __len__(self) -> int: ...

    def replace(self, *, gone: Sequence[int], numbers: Sequence[int], vectors: Vectors) -> None:
        """Take out `gone` and the old vectors of `numbers`, then add `vectors` [n, dim] for them, in one step."""
        ...

    def search(self, vectors: Vectors, *, k: int, among: Selection = EVERYTHING) -> list[Found]:
        """For each of `vectors` [n, dim] the `k` nearest in `among`; fewer only when there are fewer."""
        ...

    def vector(self, number: int) -> Vectors | None:
        """The vector of an item, or None."""
        ...
