"""Processes forked from one parent: started again when they end, told to stop, never outliving the parent.

Knows nothing of notes, queues and engines.
"""

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

log = logging.getLogger(__name__)
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
YOUNG_S = 10.0
POLL_S = 0.1
STOPS = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Deaths:
    """How often in a row a child has died young, and so how long to wait before it is started again."""

    young: int = 0

    def and_one(self, *, lived_s: float) -> "Deaths":
        """After one death more."""
        return Deaths(self.young + 1 if lived_s < YOUNG_S else 0)

    @property
    def pause_s(self) -> float:
        """Hardly anything after a long life; twice as long after each early death."""
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.young, 20))


@dataclass(frozen=True)
class End:
    """A child's end: its exit code, or minus the signal that killed it."""

    code: int

    def __str__(self) -> str:
        return f"exit code {self.code}" if self.code >= 0 else f"signal {signal.Signals(-self.code).name}"


class Child:
    """One process, which runs `body` and ends when it returns. A body that raises ends with exit code 1."""

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        self.name = name
        self.pid: int | None = None
        self._body = body
        self.wanted = True
        self._deaths = Deaths()
        self._last_end: End | None = None
        self._started_at = 0.0
        self._due_at = 0.0

    def is_due(self) -> bool:
        """True when it should run, does not, and has waited long enough."""
        return self.wanted and self.pid is None and time.monotonic() >= self._due_at

    def start(self) -> None:
        """Fork. A signal to stop that comes meanwhile waits until parent and child have told themselves apart."""
        parent = os.getpid()
        self._started_at = time.monotonic()
        with _stops_blocked():
            try:
                pid = os.fork()
            except OSError as error:  # no memory or too many processes, just now
                log.warning("%s can't be started: %s", self.name, error)
                self._wait_after_death()
                return
            if pid == 0:
                self._live(parent)
        self.pid = pid
        if self._last_end is not None:
            log.warning("%s had ended with %s and is started again (pid %s)", self.name, self._last_end, pid)

    def send(self, number: int) -> None:
        """Send a signal to it, if it runs."""
        if self.pid is not None:
            os.kill(self.pid, number)  # not reaped yet, so the pid is still its own

    def ended(self, end: End) -> None:
        """Take note that it was reaped, and when it may be started again."""
        self.pid = None
        self._last_end = end
        self._wait_after_death()

    def _wait_after_death(self) -> None:
        now = time.monotonic()
        self._deaths = self._deaths.and_one(lived_s=now - self._started_at)
        self._due_at = now + self._deaths.pause_s

    def _live(self, parent: int) -> NoReturn:
        code = 1
        try:
            die_with(parent)
            os.setsid()  # Ctrl+C in a terminal reaches the parent alone, which lets notes in hand be finished
            for number in STOPS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            self._body()
            code = 0
        except Exception:
            log.exception("%s (pid %s) broke", self.name, os.getpid())
        finally:
            os._exit(code)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(1)


@contextmanager
def _stops_blocked() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


class Parent:
    """This process as the parent of children. It has one thread, so that a fork copies no lock that another holds."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._stops = 0
        for number in STOPS:
            signal.signal(number, self._count_stop)

    def _count_stop(self, *_: object) -> None:
        self._stops += 1

    @property
    def told_to_stop(self) -> bool:
        """True after the first SIGTERM or SIGINT."""
        return self._stops > 0

    def start(self, children: Iterable[Child]) -> None:
        """Start children, and keep them running from now on."""
        for child in children:
            self._children.append(child)
            child.start()

    def tend(self) -> dict[str, End]:
        """Wait a moment, then start again what is due. Returns which children have ended, by name.

        A second signal to stop kills all children and raises SystemExit.
        """
        time.sleep(POLL_S)
        if self._stops > 1:
            log.warning("told twice to stop: all children are killed")
            self._kill(self._children)
            sys.exit(1)
        ended = self._reap()
        for child in self._children:
            if child.is_due():
                child.start()
        return ended

    def end(self, children: Sequence[Child], *, patience_s: float | None = None) -> None:
        """Ask children to end and wait until they have; after `patience_s` kill them. The others are kept running."""
        for child in children:
            child.wanted = False
            child.send(signal.SIGTERM)
        ends = time.monotonic() + patience_s if patience_s is not None else None
        while any(child.pid for child in children):
            self.tend()
            if ends is not None and time.monotonic() > ends:
                self._kill(children)

    def _kill(self, children: Iterable[Child]) -> None:
        for child in children:
            child.send(signal.SIGKILL)

    def _reap(self) -> dict[str, End]:
        ended = {}
        for child in self._children:
            if child.pid and (found := os.waitpid(child.pid, os.WNOHANG))[0]:
                ended[child.name] = End(os.waitstatus_to_exitcode(found[1]))
                child.ended(ended[child.name])
        return ended
