"""A context without a model, for tests: logits depend on the token path alone, and its cache behaves like llama.cpp's.

It raises on what llama.cpp rejects: positions with gaps, a batch that does not fit, copies of missing tokens.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from dermnote_notegen.engine.model import BatchToken, CacheFull, ContextBroken
from dermnote_notegen.engine.sampling import Logits


class FakeContext:
    """A cache of `cells` tokens; `broken_at`: numbers of the decodes that lose the cache."""

    def __init__(
        self, *, cells: int, max_sequences: int, vocabulary: int, shares: bool = True, broken_at: Sequence[int] = ()
    ) -> None:
        self.cells = cells
        self.max_sequences = max_sequences
        self.shares = shares
        self.decodes = 0
        self.decoded_tokens = 0
        self.most_used = 0
        self._vocabulary = vocabulary
        self._broken_at = set(broken_at)
        self._next_cell = 0
        self._logits: dict[int, Logits] = {}
        self.rebuild()

    @property
    def used(self) -> int:
        """Cells that hold a token; a cell shared by several sequences counts once."""
        return len({cell for cells in self._cells for cell in cells})

    def logits_after(self, path: Sequence[int]) -> Logits:
        """The model's logits after a path, whatever else is in the batch."""
        digest = hashlib.blake2b(np.asarray(path, dtype=np.int32).tobytes(), digest_size=8).digest()
        draw = np.random.default_rng(int.from_bytes(digest, "big"))
        return draw.normal(scale=2, size=self._vocabulary).astype(np.float32)

    def decode(self, batch: Sequence[BatchToken]) -> None:
        """Append the tokens to their sequences. Raises CacheFull, ContextBroken, or ValueError for an invalid batch."""
        self.decodes += 1
        if self.decodes in self._broken_at:
            raise ContextBroken
        if self.used + len(batch) > self.cells:
            raise CacheFull
        self._logits = {}
        for index, (token, position, seq_id, logits) in enumerate(batch):
            path = self._paths[seq_id]
            if position != len(path):
                raise ValueError(f"sequence {seq_id}: position {position} after {len(path)} tokens")
            path.append(token)
            self._cells[seq_id].append(self._next_cell)
            self._next_cell += 1
            if logits:
                self._logits[index] = self.logits_after(path)
        self.decoded_tokens += len(batch)
        self.most_used = max(self.most_used, self.used)

    def logits(self, index: int) -> Logits:
        """The logits after token `index` of the last batch, which must have requested them."""
        return self._logits[index]

    def copy(self, source: int, target: int, *, length: int) -> None:
        """Share the first cells of a sequence with an empty one."""
        if not self.shares or self._paths[target] or len(self._paths[source]) < length:
            raise ValueError(f"sequence {source} cannot share {length} tokens with sequence {target}")
        self._paths[target] = self._paths[source][:length]
        self._cells[target] = self._cells[source][:length]

    def drop(self, seq_id: int, *, start: int) -> None:
        """Free a sequence's cells from `start` on."""
        if start and not self.shares:
            raise ValueError("memory that cannot be shared cannot be cut")
        del self._paths[seq_id][start:], self._cells[seq_id][start:]

    def rebuild(self) -> None:
        """Empty all sequences."""
        self._paths: list[list[int]] = [[] for _ in range(self.max_sequences)]
        self._cells: list[list[int]] = [[] for _ in range(self.max_sequences)]
