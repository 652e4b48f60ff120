"""The scheduler's view of a model and its KV cache, implemented by llama.cpp and, for tests, by a fake."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dermnote_notegen.engine.sampling import Logits


class CacheFull(Exception):
    """The batch needs more free cells than are available; the cache is unchanged."""


class ContextBroken(Exception):
    """The cache is in an unknown state and must be rebuilt."""


class BatchToken(NamedTuple):
    """One token of a batch, at `position` of a sequence; `logits`: compute the logits after it."""

    token: int
    position: int
    seq_id: int
    logits: bool


class KVCache(Protocol):
    """Sequences 0 to `max_sequences` - 1 over shared cells. `drop` frees positions from `start` on."""

    max_sequences: int

    def copy(self, source: int, target: int, *, length: int) -> None: ...

    def drop(self, seq_id: int, *, start: int) -> None: ...


class Context(KVCache, Protocol):
    """A model and its cache of `cells` tokens. `shares`: prefixes can be copied between sequences."""

    cells: int
    shares: bool

    def decode(self, batch: Sequence[BatchToken]) -> None:
        """Raises CacheFull or ContextBroken."""

    def logits(self, index: int) -> Logits:
        """Logits after token `index` of the last batch, shape [vocabulary]; valid until the next batch."""

    def rebuild(self) -> None:
        """Replace the cache with an empty one."""
