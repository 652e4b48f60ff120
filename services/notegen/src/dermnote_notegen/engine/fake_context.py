"""A context without a model, for tests: logits are drawn from the path itself, and the cache is kept as llama.cpp does.

It refuses what llama.cpp refuses: positions that don't follow, a batch without room, copies of what isn't there.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from dermnote_notegen.engine.context import ContextBroken, PoolFull, Row
from dermnote_notegen.engine.sampling import Logits


class PretendContext:
    """`cells` tokens in `lanes`; `broken_at`: numbers of the decodes that lose the cache."""

    def __init__(
        self, *, cells: int, lanes: int, vocabulary: int, shares: bool = True, broken_at: Sequence[int] = ()
    ) -> None:
        self.cells = cells
        self.lanes = lanes
        self.shares = shares
        self.decodes = 0
        self.decoded_rows = 0
        self.most_used = 0
        self._vocabulary = vocabulary
        self._broken_at = set(broken_at)
        self._paths: list[list[int]] = [[] for _ in range(lanes)]
        self._cells: list[list[int]] = [[] for _ in range(lanes)]
        self._next_cell = 0
        self._answers: dict[int, Logits] = {}

    @property
    def used(self) -> int:
        """Cells that hold a token; one that several lanes share counts once."""
        return len({cell for lane in self._cells for cell in lane})

    def logits_after(self, path: Sequence[int]) -> Logits:
        """What the model says after a path; the same whatever else is in the batch."""
        digest = hashlib.blake2b(np.asarray(path, dtype=np.int32).tobytes(), digest_size=8).digest()
        draw = np.random.default_rng(int.from_bytes(digest, "big"))
        return draw.normal(scale=2, size=self._vocabulary).astype(np.float32)

    def decode(self, rows: Sequence[Row]) -> None:
        """Append the rows to their lanes. Raises PoolFull, ContextBroken, or ValueError for a wrong batch."""
        self.decodes += 1
        if self.decodes in self._broken_at:
            raise ContextBroken
        if self.used + len(rows) > self.cells:
            raise PoolFull
        self._answers = {}
        for index, row in enumerate(rows):
            if row.position != len(self._paths[row.lane]):
                raise ValueError(f"lane {row.lane}: position {row.position} behind {len(self._paths[row.lane])}")
            self._paths[row.lane].append(row.token)
            self._cells[row.lane].append(self._next_cell)
            self._next_cell += 1
            if row.wanted:
                self._answers[index] = self.logits_after(self._paths[row.lane])
        self.decoded_rows += len(rows)
        self.most_used = max(self.most_used, self.used)

    def logits(self, index: int) -> Logits:
        """Those of a wanted row."""
        return self._answers[index]

    def copy(self, source: int, target: int, *, length: int) -> None:
        """Share the first cells of a lane with an empty one."""
        if not self.shares or self._paths[target] or len(self._paths[source]) < length:
            raise ValueError(f"lane {source} can't give {length} tokens to lane {target}")
        self._paths[target] = self._paths[source][:length]
        self._cells[target] = self._cells[source][:length]

    def drop(self, lane: int, *, start: int) -> None:
        """Forget the lane's cells from `start` on."""
        if start and not self.shares:
            raise ValueError("a memory that can't share can't be cut")
        del self._paths[lane][start:], self._cells[lane][start:]

    def rebuild(self) -> None:
        """All cells empty."""
        self._paths = [[] for _ in range(self.lanes)]
        self._cells = [[] for _ in range(self.lanes)]
