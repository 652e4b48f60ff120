"""Progress of long-running work, independent of how it is displayed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


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


def track(items: Iterable[Item], *, stage: str, total: int, progress: Report) -> Iterator[Item]:
    """The items, each reported when the next one is taken."""
    for done, item in enumerate(items, start=1):
        yield item
        progress(Step(stage, done, total))
