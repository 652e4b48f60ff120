"""EngineLock: shared and exclusive holders, across threads and processes."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dermnote_notegen.worker.engine_client import EngineLock

BLOCKED_S = 0.2
TIMEOUT_S = 30
HOLD = """
import sys, time
from pathlib import Path
from dermnote_notegen.worker.engine_client import EngineLock
with getattr(EngineLock(Path(sys.argv[1])), sys.argv[2])():
    print("acquired", flush=True)
    time.sleep(600)
"""


class Holder:
    """A thread that acquires the lock and holds it until it is released."""

    def __init__(self, pool: ThreadPoolExecutor, lock: EngineLock, *, exclusive: bool) -> None:
        self.acquired = threading.Event()
        self._released = threading.Event()
        self._run = pool.submit(self._hold, lock, exclusive)

    def _hold(self, lock: EngineLock, exclusive: bool) -> None:
        with lock.exclusive() if exclusive else lock.shared():
            self.acquired.set()
            assert self._released.wait(TIMEOUT_S)

    def release(self) -> None:
        self._released.set()
        self._run.result(TIMEOUT_S)


def test_any_number_of_requests_share_the_lock(tmp_path: Path) -> None:
    lock = EngineLock(tmp_path / "engine.sock")
    with ThreadPoolExecutor() as pool:
        holders = [Holder(pool, lock, exclusive=False) for _ in range(4)]

        assert all(holder.acquired.wait(TIMEOUT_S) for holder in holders)

        for holder in holders:
            holder.release()


def test_an_exclusive_request_waits_for_earlier_ones_and_blocks_later_ones(tmp_path: Path) -> None:
    lock = EngineLock(tmp_path / "engine.sock")
    with ThreadPoolExecutor() as pool:
        first = Holder(pool, lock, exclusive=False)
        assert first.acquired.wait(TIMEOUT_S)
        exclusive = Holder(pool, lock, exclusive=True)
        assert not exclusive.acquired.wait(BLOCKED_S)
        later = Holder(pool, lock, exclusive=False)
        assert not later.acquired.wait(BLOCKED_S)

        first.release()

        assert exclusive.acquired.wait(TIMEOUT_S)
        assert not later.acquired.wait(BLOCKED_S)
        exclusive.release()
        assert later.acquired.wait(TIMEOUT_S)
        later.release()


def test_exclusive_requests_hold_the_lock_one_after_another(tmp_path: Path) -> None:
    lock = EngineLock(tmp_path / "engine.sock")
    with ThreadPoolExecutor() as pool:
        first = Holder(pool, lock, exclusive=True)
        assert first.acquired.wait(TIMEOUT_S)
        second = Holder(pool, lock, exclusive=True)
        assert not second.acquired.wait(BLOCKED_S)

        first.release()

        assert second.acquired.wait(TIMEOUT_S)
        second.release()


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_the_lock_of_a_killed_process_is_released(tmp_path: Path, mode: str) -> None:
    socket = tmp_path / "engine.sock"
    command = [sys.executable, "-c", HOLD, str(socket), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other, ThreadPoolExecutor() as pool:
        assert other.stdout is not None
        assert other.stdout.readline() == "acquired\n"
        exclusive = Holder(pool, EngineLock(socket), exclusive=True)
        assert not exclusive.acquired.wait(BLOCKED_S)

        other.send_signal(signal.SIGKILL)

        assert exclusive.acquired.wait(TIMEOUT_S)
        exclusive.release()
