"""Who of a node is at the engine now: any number of requests in company, or one alone.

Two file locks beside the engine's socket say so; the kernel lets go of a lock when its holder ends, however it ends.
Knows nothing of what is asked.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


class Company:
    """The requests of all processes that ask at one socket.

    Whoever is in has a hold on the floor, whoever wants in passes the gate. A request that wants to be alone shuts the
    gate first, so that a stream of others can't keep it waiting, and then waits until the floor is empty.
    """

    def __init__(self, socket: Path) -> None:
        self._gate = socket.with_name(f"{socket.name}.gate")
        self._floor = socket.with_name(f"{socket.name}.floor")

    @contextmanager
    def joined(self) -> Iterator[None]:
        """With others; waits for one that is alone, or waits to be. Some 40 µs where nobody is."""
        with ExitStack() as floor:
            with _locked(self._gate, fcntl.LOCK_SH):
                floor.enter_context(_locked(self._floor, fcntl.LOCK_SH))
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """With nobody else: waits until those that are in are done, and keeps out who comes."""
        with _locked(self._gate, fcntl.LOCK_EX), _locked(self._floor, fcntl.LOCK_EX):
            yield


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)  # opened anew: processes and threads each have their own hold
    try:
        fcntl.flock(file, kind)
        yield
    finally:
        os.close(file)
