"""One request inside the engine: what it asks for, where in the tree it stands, and how it ended."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from dermnote_notegen.engine.decoding import Move, Program
from dermnote_notegen.engine.model import GrammarRefused
from dermnote_notegen.engine.prefix_cache import Node

log = logging.getLogger(__name__)
# Part of a request's token limit that is reserved for it: few texts need all, and who is in the way can be preempted.
RESERVED_SHARE = 0.5


class End(Enum):
    """How a job ended."""

    WRITTEN = "written"
    STOPPED = "stopped"
    NO_ROOM = "no room"
    REFUSED = "refused"
    BROKEN = "broken"


@dataclass(eq=False)
class Job:
    """One request. `stop()` true: nobody waits any more. Times are seconds of time.monotonic().

    `shares_text`: others may well write the same beginning (a grammar leaves few), so what it wrote is kept a while.
    """

    program: Program
    prompt: Sequence[int]
    max_tokens: int
    stop: Callable[[], bool]
    on_end: Callable[["Job", End], None]
    shares_text: bool = False
    arrived: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0
    cached: int = 0
    preempted: int = 0
    path: list[int] = field(default_factory=list)
    node: Node = field(default_factory=Node)
    stem: Node = field(default_factory=Node)
    reserved: int = 0

    def begin(self) -> End | None:
        """Lay out its path; how it ended where nothing needs to be decoded for it."""
        move = self.ask(self.program.begin)
        if isinstance(move, End):
            return move
        self.path = [*self.prompt, *move.tokens]
        return End.WRITTEN if move.ended else None

    def ask(self, step: Callable[[], Move]) -> Move | End:
        """Its program's next move, or how it ended: a fault in one job's grammar or sampling is not the others' end."""
        try:
            return step()
        except GrammarRefused:
            return End.REFUSED
        except Exception:
            log.exception("a request ended by a fault of its own")
            return End.BROKEN

    def need(self) -> int:
        """Tokens that it may still need cells for, all of its path among them."""
        ahead = max(0, self.max_tokens + len(self.prompt) - len(self.path))
        return len(self.path) + int(ahead * RESERVED_SHARE)
