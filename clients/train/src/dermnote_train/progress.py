"""Progress of long-running work, independent of how it is displayed."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """`done` of `total` units of a `stage` ("decode images", "epoch 3/10"); `detail`: a short extra text."""

    stage: str
    done: int
    total: int
    detail: str = ""


Report = Callable[[Step], None]


def silent(_: Step) -> None:
    """Discard the progress."""
