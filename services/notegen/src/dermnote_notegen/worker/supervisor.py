"""Supervises forked processes: restarts those that exit, stops them on request, and never leaves orphans.

Independent of notes, queues and engines.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

log = logging.getLogger(__name__)
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0
STABLE_AFTER_S = 10.0
POLL_S = 0.1
WATCH_S = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Backoff:
    """Delay before a restart: doubles with each early exit in a row, up to MAX_DELAY_S."""

    early_exits: int = 0

    def after_exit(self, *, uptime_s: float) -> "Backoff":
        """The back-off after one more exit."""
        return Backoff(self.early_exits + 1 if uptime_s < STABLE_AFTER_S else 0)

    @property
    def delay_s(self) -> float:
        """Seconds to wait."""
        return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self.early_exits, 20))


def describe_exit(code: int) -> str:
    """An exit code, or minus the signal that killed the process, in words."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


class Process:
    """One supervised process, which runs `target` and exits when it returns, with code 1 if it raises."""

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self.name = name
        self.pid: int | None = None
        self.restarts = True
        self._target = target
        self._backoff = Backoff()
        self._exit_code: int | None = None
        self._started_at = 0.0
        self._restart_at = 0.0

    def is_due(self) -> bool:
        """True if it should be running, is not, and its restart delay is over."""
        return self.restarts and self.pid is None and time.monotonic() >= self._restart_at

    def start(self) -> None:
        """Fork. Stop signals are held back until the child has its own handlers."""
        parent = os.getpid()
        self._started_at = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._run(parent)
        except OSError as error:  # out of memory or processes
            log.warning("%s can't be started: %s", self.name, error)
            self._schedule_restart()
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self.pid = pid
        if self._exit_code is not None:
            log.warning("%s ended with %s; restarted as pid %s", self.name, describe_exit(self._exit_code), pid)

    def send(self, number: int) -> None:
        """Send a signal if it is running."""
        if self.pid is not None:
            os.kill(self.pid, number)  # safe: the pid can't be reused before it is reaped

    def reap(self) -> int | None:
        """Return its exit code if it has just exited, and schedule its restart; None otherwise."""
        if self.pid is None:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = None
        self._exit_code = os.waitstatus_to_exitcode(status)
        self._schedule_restart()
        return self._exit_code

    def _schedule_restart(self) -> None:
        now = time.monotonic()
        self._backoff = self._backoff.after_exit(uptime_s=now - self._started_at)
        self._restart_at = now + self._backoff.delay_s

    def _run(self, parent: int) -> NoReturn:
        code = 1
        try:
            _exit_with(parent)
            os.setsid()  # Ctrl+C in a terminal reaches only the supervisor, which lets workers finish their notes
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            self._target()
            code = 0
        except Exception:
            log.exception("%s (pid %s) failed", self.name, os.getpid())
        finally:
            os._exit(code)


def _exit_with(parent: int) -> None:
    """Kill this process when its parent exits for any reason: by the kernel on Linux, elsewhere by a polling thread."""
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    else:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it exited before prctl took effect
            os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os.kill(os.getpid(), signal.SIGKILL)


class Supervisor:
    """Starts, restarts and stops processes. Has a single thread, so a fork copies no lock that another thread holds."""

    def __init__(self) -> None:
        self._processes: list[Process] = []
        self._stop_signals = 0
        for number in STOP_SIGNALS:
            signal.signal(number, self._count_stop_signal)

    def _count_stop_signal(self, *_: object) -> None:
        self._stop_signals += 1

    @property
    def stopping(self) -> bool:
        """True after the first SIGTERM or SIGINT."""
        return self._stop_signals > 0

    def start(self, processes: Iterable[Process]) -> None:
        """Start processes and keep them running."""
        for process in processes:
            self._processes.append(process)
            process.start()

    def poll(self) -> dict[str, int]:
        """Wait for POLL_S, then restart the processes that are due. Returns each exited process's code by name.

        A second stop signal kills all processes and raises SystemExit.
        """
        time.sleep(POLL_S)
        if self._stop_signals > 1:
            log.warning("second stop signal: killing all processes")
            self._kill(self._processes)
            sys.exit(1)
        codes = {process.name: process.reap() for process in self._processes}
        for process in self._processes:
            if process.is_due():
                process.start()
        return {name: code for name, code in codes.items() if code is not None}

    def stop(self, processes: Sequence[Process], *, kill_after_s: float | None = None) -> None:
        """Send SIGTERM to these processes and wait until they exit; kill them after `kill_after_s`, if given."""
        for process in processes:
            process.restarts = False
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + kill_after_s if kill_after_s is not None else None
        while any(process.pid for process in processes):
            self.poll()
            if deadline is not None and time.monotonic() > deadline:
                self._kill(processes)

    def _kill(self, processes: Iterable[Process]) -> None:
        for process in processes:
            process.send(signal.SIGKILL)
