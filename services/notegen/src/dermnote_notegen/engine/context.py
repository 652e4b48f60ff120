"""What the scheduler needs of a model and its cache: the seam under which llama.cpp, or a pretended one, stands."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dermnote_notegen.engine.prefix_cache import Cells
from dermnote_notegen.engine.sampling import Logits


class PoolFull(Exception):
    """No cells are free for the batch; the cache is as it was."""


class ContextBroken(Exception):
    """The cache is in an unknown state and must be rebuilt."""


class Row(NamedTuple):
    """One token of a batch, at `position` of `lane`; `wanted`: its logits are read."""

    token: int
    position: int
    lane: int
    wanted: bool


class Context(Cells, Protocol):
    """A model and its cache of `cells` tokens. `shares`: prefixes can be copied from lane to lane."""

    cells: int
    shares: bool

    def decode(self, rows: Sequence[Row]) -> None:
        """Raises PoolFull or ContextBroken."""

    def logits(self, index: int) -> Logits:
        """Behind row `index` of the last batch, shape [vocabulary]; valid until the next one."""

    def rebuild(self) -> None:
        """A new, empty cache."""
