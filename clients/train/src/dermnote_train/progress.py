"""What long work tells about itself while it runs; who shows it is not known here."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """`done` of `total` units of a `stage` ("decode images", "epoch 3/10"); `detail`: a short figure beside."""

    stage: str
    done: int
    total: int
    detail: str = ""


Report = Callable[[Step], None]


def silent(_: Step) -> None:
    """Report to nobody."""
