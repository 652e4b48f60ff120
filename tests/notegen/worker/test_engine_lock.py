"""Company and solitude at the engine, across threads and processes."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dermnote_notegen.worker.engine_lock import Company

WAITING_S = 0.2
LONG_S = 30
HOLD = """
import sys, time
from pathlib import Path
from dermnote_notegen.worker.engine_lock import Company
with getattr(Company(Path(sys.argv[1])), sys.argv[2])():
    print("in", flush=True)
    time.sleep(600)
"""


class Visitor:
    """One request of its own thread: it stays in until it is told to go."""

    def __init__(self, pool: ThreadPoolExecutor, company: Company, *, alone: bool) -> None:
        self.came_in = threading.Event()
        self._may_go = threading.Event()
        self._visit = pool.submit(self._stay, company, alone)

    def _stay(self, company: Company, alone: bool) -> None:
        with company.alone() if alone else company.joined():
            self.came_in.set()
            assert self._may_go.wait(LONG_S)

    def go(self) -> None:
        self._may_go.set()
        self._visit.result(LONG_S)


def test_any_number_is_in_together(tmp_path: Path) -> None:
    company = Company(tmp_path / "engine.sock")
    with ThreadPoolExecutor() as pool:
        visitors = [Visitor(pool, company, alone=False) for _ in range(4)]

        assert all(visitor.came_in.wait(LONG_S) for visitor in visitors)

        for visitor in visitors:
            visitor.go()


def test_who_wants_to_be_alone_waits_for_those_who_are_in_and_keeps_out_who_comes_later(tmp_path: Path) -> None:
    company = Company(tmp_path / "engine.sock")
    with ThreadPoolExecutor() as pool:
        first = Visitor(pool, company, alone=False)
        assert first.came_in.wait(LONG_S)
        alone = Visitor(pool, company, alone=True)
        assert not alone.came_in.wait(WAITING_S)
        later = Visitor(pool, company, alone=False)
        assert not later.came_in.wait(WAITING_S)

        first.go()

        assert alone.came_in.wait(LONG_S)
        assert not later.came_in.wait(WAITING_S)
        alone.go()
        assert later.came_in.wait(LONG_S)
        later.go()


def test_two_are_alone_one_after_the_other(tmp_path: Path) -> None:
    company = Company(tmp_path / "engine.sock")
    with ThreadPoolExecutor() as pool:
        first = Visitor(pool, company, alone=True)
        assert first.came_in.wait(LONG_S)
        second = Visitor(pool, company, alone=True)
        assert not second.came_in.wait(WAITING_S)

        first.go()

        assert second.came_in.wait(LONG_S)
        second.go()


@pytest.mark.parametrize("how", ["joined", "alone"])
def test_a_process_that_is_killed_keeps_nobody_out(tmp_path: Path, how: str) -> None:
    socket = tmp_path / "engine.sock"
    command = [sys.executable, "-c", HOLD, str(socket), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other, ThreadPoolExecutor() as pool:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        alone = Visitor(pool, Company(socket), alone=True)
        assert not alone.came_in.wait(WAITING_S)

        other.send_signal(signal.SIGKILL)

        assert alone.came_in.wait(LONG_S)
        alone.go()
