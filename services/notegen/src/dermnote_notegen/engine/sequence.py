"""One request inside the engine: its tokens, its position in the prefix cache, and its outcome."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from dermnote_notegen.engine.decoding import Continuation, Decoder
from dermnote_notegen.engine.model import GrammarError
from dermnote_notegen.engine.prefix_cache import Node

log = logging.getLogger(__name__)
# Share of a request's token limit that is reserved in the cache: few texts need all, and others can be preempted.
RESERVED_SHARE = 0.5


class Outcome(Enum):
    """Outcome of a sequence; the values are labels of the metric `dermnote_engine_requests_total`."""

    COMPLETED = "written"
    CANCELLED = "stopped"
    CACHE_TOO_SMALL = "no_room"
    GRAMMAR_ERROR = "refused"
    FAILED = "broken"


@dataclass(eq=False)
class Sequence:
    """One request. It ends once `cancelled()` is true. Times are seconds of time.monotonic().

    `reusable`: other requests are likely to generate the same beginning (a grammar allows few), so its branch stays
    cached after its end.
    """

    decoder: Decoder
    prompt: list[int]
    max_tokens: int
    cancelled: Callable[[], bool]
    on_end: Callable[["Sequence", Outcome], None]
    reusable: bool = False
    arrived: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0
    cached_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    node: Node = field(default_factory=Node)
    stem: Node = field(default_factory=Node)
    reserved_cells: int = 0

    def begin(self) -> Outcome | None:
        """Set its first tokens; its outcome if nothing needs to be decoded."""
        continuation = self.run(self.decoder.begin)
        if isinstance(continuation, Outcome):
            return continuation
        self.tokens = [*self.prompt, *continuation.tokens]
        return Outcome.COMPLETED if continuation.ended else None

    def run(self, step: Callable[[], Continuation]) -> Continuation | Outcome:
        """Run a step of its decoder; an error in one sequence's grammar or sampling does not affect the others."""
        try:
            return step()
        except GrammarError:
            return Outcome.GRAMMAR_ERROR
        except Exception:
            log.exception("a request failed with an error of its own")
            return Outcome.FAILED

    def cells_needed(self) -> int:
        """Cells that it may need in total, its present tokens included."""
        remaining = max(0, self.max_tokens + len(self.prompt) - len(self.tokens))
        return len(self.tokens) + int(remaining * RESERVED_SHARE)
