"""What goes into a search and what comes out: which items may be found, what was, and how sure that is."""

from dataclasses import dataclass

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
