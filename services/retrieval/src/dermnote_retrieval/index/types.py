"""Types of a search: the selection of items, and the neighbours found."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Neighbours = list[tuple[int, float]]
"""(item number, cosine), best first."""


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
