"""`python -m stack up|down|status`: starts the local stack and waits until it is ready, stops it, prints its state."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from stack.layout import Layout, is_free, read_layout, save_redis_port, with_free_redis_port
from stack.supervision import (
    BIN,
    Supervisor,
    end_leftovers,
    log_path,
    start_supervisord,
    write_configuration,
)

READY_S = 180
POLL_S = 0.3


class StackFailed(Exception):
    """A one-line message: what failed, and the next step or the path of the log."""


def up(layout: Layout) -> None:
    """Start programs that are not running and wait until both services are ready. Raises StackFailed."""
    supervisor = Supervisor(layout)
    if not supervisor.is_alive():
        layout.home.mkdir(parents=True, exist_ok=True)
        if ended := end_leftovers(layout):
            say(f"ended {ended} orphaned processes of a killed supervisor")
        layout = with_free_redis_port(layout)
        check_ports(layout)
        prepare_model(layout)
        save_redis_port(layout)
        start_supervisord(layout, write_configuration(layout))
        wait_for(supervisor.is_alive, "supervisord", layout.logs / "supervisord.log", timeout_s=20)
    started = supervisor.start_missing()
    say(f"started {', '.join(started)}" if started else "everything was already running")
    for name, port in (("notegen-api", layout.notegen_port), ("retrieval", layout.retrieval_port)):
        wait_ready(layout, supervisor, name, port)
        say(f"{name.removesuffix('-api')} is ready on http://127.0.0.1:{port}")


def down(layout: Layout) -> None:
    """Stop everything; state in the stack's home folder stays, a folder of sockets elsewhere is deleted."""
    supervisor = Supervisor(layout)
    if supervisor.is_alive():
        supervisor.shut_down()
        say("stopped")
    elif end_leftovers(layout):
        say("stopped orphaned processes of a killed supervisor")
    else:
        say("nothing was running")
    if not layout.sockets.is_relative_to(layout.home):
        shutil.rmtree(layout.sockets, ignore_errors=True)


def status(layout: Layout) -> None:
    """Print the state and pid of each process as JSON."""
    supervisor = Supervisor(layout)
    if not supervisor.is_alive():
        raise StackFailed("the stack is not running; start it with: make up")
    pids = supervisor.pids()
    print(json.dumps({name: {"state": state, "pid": pids[name]} for name, state in supervisor.states().items()}))


def check_ports(layout: Layout) -> None:
    """Raise StackFailed if another program uses a service's port."""
    ports = {"NOTEGEN_PORT": layout.notegen_port, "RETRIEVAL_PORT": layout.retrieval_port}
    for variable, port in ports.items():
        if not is_free(port):
            raise StackFailed(f"port {port} is in use by another program: stop it, or set {variable} to a free port")


def prepare_model(layout: Layout) -> None:
    """Export the unaligned `lite` towers for retrieval, unless they exist."""
    if os.environ.get("RETRIEVAL_ENCODER") == "dummy" or (layout.models / "lite" / "manifest.json").exists():
        return
    say("exporting the unaligned lite towers for retrieval (once)")
    command = [str(BIN / "dermnote"), "export", "lite", "--models-dir", str(layout.models)]
    process = subprocess.run(command, env=os.environ | layout.environment(), check=False)  # noqa: S603
    if process.returncode:
        raise StackFailed("exporting the lite towers failed: see the error above")


def wait_ready(layout: Layout, supervisor: Supervisor, name: str, port: int) -> None:
    """Wait for a service's /health/ready; raises StackFailed at once if a process fails to start."""

    def ready() -> bool:
        for process, state in supervisor.states().items():
            log = log_path(layout, process.rpartition("-")[0])
            if state == "FATAL" or (state == "BACKOFF" and ": cannot start: " in last_line(log)):
                supervisor.give_up(process)
                raise StackFailed(failure(f"{process} does not start", log))
        return is_ready(port)

    wait_for(ready, name, log_path(layout, name), timeout_s=READY_S)


def is_ready(port: int) -> bool:
    """Whether the service on `port` reports that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_for(condition: Callable[[], bool], name: str, log: Path, *, timeout_s: float) -> None:
    """Poll until `condition()` is true; after `timeout_s`, raises StackFailed with the path of the log."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise StackFailed(failure(f"{name} was not ready after {timeout_s:.0f} s", log))
        time.sleep(POLL_S)


def failure(message: str, log: Path) -> str:
    """An error message with the path of the log and its last line."""
    line = last_line(log)
    return f"{message}; log: {log}" + (f"; its last line: {line[:300]}" if line else "")


def last_line(log: Path) -> str:
    """The last line of a log; "" if there is none."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"stack: {line}", flush=True)


def main() -> None:
    """Run the command; on failure, exit with status 1 and a one-line message."""
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("DERMNOTE_HOME", ".dermnote")))
    arguments = parser.parse_args()
    layout = read_layout(arguments.home, os.environ)
    try:
        {"up": up, "down": down, "status": status}[arguments.command](layout)
    except StackFailed as error:
        sys.exit(f"stack: {error}")


if __name__ == "__main__":
    main()
