"""A real stack for the e2e tests: supervisord, embedded Valkey, the GGUF model, retrieval, on free ports."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from dermnote_train.cli import make_app
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll a condition; fail with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s: {what}"
        time.sleep(0.2)


@dataclass
class Stack:
    """A stack in its own folder; `environment`: the environment of its commands and of the client."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `python -m stack ...` as `make` does."""
        return self._run(sys.executable, "-m", "stack", *arguments, "--home", str(self.home), timeout_s=timeout_s)

    def dermnote(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `dermnote` against this stack in this process, which has loaded its libraries already."""
        given = list(map(str, arguments))
        result = CliRunner(env=self.environment).invoke(make_app(), given)
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        return subprocess.CompletedProcess(["dermnote", *given], result.exit_code, result.stdout, result.stderr)

    def installed_dermnote(self, *arguments: str | Path, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run the installed command `dermnote` against this stack."""
        command = str(Path(sys.executable).parent / "dermnote")
        return self._run(command, *map(str, arguments), timeout_s=timeout_s)

    def _run(self, *command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def status(self) -> dict[str, dict[str, str | int]]:
        """Process name -> state and pid."""
        process = self.run("status")
        assert process.returncode == 0, process.stderr
        status: dict[str, dict[str, str | int]] = json.loads(process.stdout)
        return status

    def pid(self, process: str) -> int:
        """The pid of a supervised process, or of the "engine", a child of the worker; 0 if it is not running."""
        if process == "engine":
            return self._engine_pid()
        return int(self.status()[process]["pid"])

    def _engine_pid(self) -> int:
        parent = self.pid("notegen-worker-1")
        children = psutil.process_iter(["ppid", "cmdline"])  # a process that has just died has no command line
        commands = {child.pid: child.info["cmdline"] or [] for child in children if child.info["ppid"] == parent}
        return next((pid for pid, command in commands.items() if "engine" in " ".join(command)), 0)

    def wait_restarted(self, process: str, old_pid: int) -> None:
        """Wait until the process has been restarted."""
        wait_until(lambda: self.pid(process) not in (0, old_pid), timeout_s=60, what=f"{process} restarted")


def make_stack(home: Path, **environment: str) -> Stack:
    """A stack with free ports, not started. It notices killed workers sooner than by default."""
    ports = {"notegen": free_port(), "retrieval": free_port()}
    inherited = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DERMNOTE_HOME")}
    return Stack(
        home,
        inherited
        | {
            "NOTEGEN_PORT": str(ports["notegen"]),
            "RETRIEVAL_PORT": str(ports["retrieval"]),
            "NOTEGEN_URL": f"http://127.0.0.1:{ports['notegen']}",
            "RETRIEVAL_URL": f"http://127.0.0.1:{ports['retrieval']}",
            "DERMNOTE_HOME": str(home),
            "NOTEGEN_MAINTENANCE_INTERVAL_S": "1",
            "NOTEGEN_ORPHAN_AFTER_S": "5",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }
        | environment,
    )


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The complete local stack, started like `make up`."""
    stack = make_stack(tmp_path_factory.mktemp("stack") / ".dermnote")
    try:
        started = stack.run("up")
        assert started.returncode == 0, started.stdout + started.stderr
        yield stack
    finally:
        stack.run("down")
