"""A peer's server as a child process: starts it, waits until it is ready, reads its resource use and stops it.

Linux only: memory and processor time come from /proc.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from lab.peers.llama_server import HOST, ServerSettings
from stack.layout import free_port

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.05
END_S = 10
LOG_TAIL_LINES = 20
READY_S = 60.0


class ServerFailed(Exception):
    """The server did not start or exited by itself; the message contains the end of its log."""


@dataclass(frozen=True)
class Usage:
    """`cpu_s`: user and system seconds since the process began; `peak_bytes`: peak resident memory so far (VmHWM)."""

    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class ServerProcess:
    """A running server that answers at `url`."""

    url: str
    pid: int
    log: Path

    def usage(self) -> Usage:
        """Its resource use so far. Raises ServerFailed if it is gone."""
        folder = Path("/proc", str(self.pid))
        try:
            status = (folder / "status").read_text()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        except (OSError, ValueError) as error:  # a zombie process has no VmHWM
            raise ServerFailed(f"the server (process {self.pid}) is gone\n{log_tail(self.log)}") from error
        ticks = int(fields[11]) + int(fields[12])  # utime and stime, the 14th and 15th field
        return Usage(cpu_s=ticks / os.sysconf("SC_CLK_TCK"), peak_bytes=int(peak) * 1024)


@contextmanager
def llama_server(
    settings: ServerSettings, *, python: Path = Path(sys.executable), ready_s: float = READY_S
) -> Iterator[ServerProcess]:
    """llama.cpp's server with these settings on a free port. `python`: an interpreter with xllamacpp.

    Raises ServerFailed.
    """
    port = free_port()
    command = [str(python), "-m", "lab.peers.llama_server", *settings.arguments(port=port)]
    with server_process(command, url=f"http://{HOST}:{port}", ready_s=ready_s) as process:
        yield process


@contextmanager
def server_process(
    command: Sequence[str],
    *,
    url: str,
    ready_s: float = READY_S,
    socket_path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    healthy: str = "/health",
) -> Iterator[ServerProcess]:
    """Run a server, yield once GET `healthy` returns 200, and stop it on exit. Raises ServerFailed.

    `socket_path`: the Unix socket on which it listens; `environment`: variables in addition to this process's own.
    """
    with tempfile.TemporaryDirectory(prefix="dermnote-peer-") as folder:
        log = Path(folder, "server.log")
        with log.open("wb") as output:
            child = subprocess.Popen(  # noqa: S603 - the command is the benchmark's own
                command,
                cwd=ROOT,
                env=os.environ | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            transport = httpx.HTTPTransport(uds=str(socket_path)) if socket_path else None
            with httpx.Client(transport=transport, base_url=url, timeout=5, trust_env=False) as client:
                _wait_until_healthy(child, client, healthy, log=log, ready_s=ready_s)
            yield ServerProcess(url=url, pid=child.pid, log=log)
        finally:
            _end(child)


def machine_cpu_s() -> float:
    """CPU seconds that all processes have used on all cores since this machine started."""
    user, nice, system, _, _, irq, softirq, *_ = (
        int(ticks) for ticks in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def log_tail(log: Path) -> str:
    """The last lines of a log; empty if it does not exist."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return "\n".join(lines[-LOG_TAIL_LINES:])


def _wait_until_healthy(
    child: subprocess.Popen[bytes], client: httpx.Client, path: str, *, log: Path, ready_s: float
) -> None:
    ends = time.monotonic() + ready_s
    while not _is_healthy(client, path):
        if (code := child.poll()) is not None:
            raise ServerFailed(f"the server exited with code {code} before it was ready\n{log_tail(log)}")
        if time.monotonic() > ends:
            raise ServerFailed(f"the server was not ready within {ready_s:g} s\n{log_tail(log)}")
        time.sleep(POLL_S)


def _is_healthy(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
