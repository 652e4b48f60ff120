"""`python -m stack up|down|status`: start the local stack and wait until it serves, stop it, look at it."""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from stack.layout import Layout, is_free, read_layout, remember, with_free_redis_port
from stack.supervision import (
    BIN,
    Supervisor,
    end_leftovers,
    log_path,
    programs,
    start_supervisord,
    write_configuration,
)

READY_S = 180
POLL_S = 0.3


class StackFailed(Exception):
    """One line: what failed, where its log is, what to do."""


def up(layout: Layout) -> None:
    """Start what is missing and return once both services are ready. Raises StackFailed."""
    supervisor = Supervisor(layout)
    if not supervisor.is_alive():
        layout.home.mkdir(parents=True, exist_ok=True)
        if ended := end_leftovers(layout):
            say(f"ended {ended} processes that a killed supervisor had left")
        layout = with_free_redis_port(layout)
        check_ports(layout)
        prepare_model(layout)
        remember(layout)
        start_supervisord(layout, write_configuration(layout))
        wait_for(supervisor.is_alive, "supervisord", layout.logs / "supervisord.log", timeout_s=20)
    started = supervisor.start_missing()
    say(f"started {', '.join(started)}" if started else "everything was running")
    for name, port in (("notegen-api", layout.notegen_port), ("retrieval", layout.retrieval_port)):
        wait_ready(layout, supervisor, name, port)
        say(f"{name.removesuffix('-api')} is ready on http://127.0.0.1:{port}")


def down(layout: Layout) -> None:
    """Stop everything; the state under the stack's home stays."""
    supervisor = Supervisor(layout)
    if supervisor.is_alive():
        supervisor.shut_down()
        say("stopped")
    elif end_leftovers(layout):
        say("stopped what a killed supervisor had left")
    else:
        say("nothing was running")


def status(layout: Layout) -> None:
    """Print each process' state and pid as JSON."""
    supervisor = Supervisor(layout)
    if not supervisor.is_alive():
        raise StackFailed("the stack is not running; start it with: make up")
    pids = supervisor.pids()
    print(json.dumps({name: {"state": state, "pid": pids[name]} for name, state in supervisor.states().items()}))


def check_ports(layout: Layout) -> None:
    """Raise StackFailed for a service's port that somebody else holds."""
    wanted = {"NOTEGEN_PORT": layout.notegen_port, "RETRIEVAL_PORT": layout.retrieval_port}
    for variable, port in wanted.items():
        if not is_free(port):
            raise StackFailed(f"port {port} is in use by another program: stop that, or set {variable} to a free port")


def prepare_model(layout: Layout) -> None:
    """Retrieval serves model folders; on a new machine the unaligned `lite` towers are exported once."""
    if os.environ.get("RETRIEVAL_ENCODER") == "dummy" or (layout.models / "lite" / "manifest.json").exists():
        return
    say("exporting the unaligned lite towers for retrieval (once)")
    command = [str(BIN / "dermnote"), "export", "lite", "--models-dir", str(layout.models)]
    done = subprocess.run(command, env=os.environ | layout.environment(), check=False)  # noqa: S603
    if done.returncode:
        raise StackFailed("exporting the lite towers failed: see above")


def wait_ready(layout: Layout, supervisor: Supervisor, name: str, port: int) -> None:
    """Wait for a service's /health/ready; a process that gave up ends the wait at once."""
    groups = [program.name for program in programs(layout)]

    def ready_or_dead() -> bool:
        for process, state in supervisor.states().items():
            if state == "FATAL":
                group = next(group for group in groups if process.startswith(group))
                raise StackFailed(failure(f"{process} does not start", log_path(layout, group)))
        return is_ready(port)

    wait_for(ready_or_dead, name, log_path(layout, name), timeout_s=READY_S)


def is_ready(port: int) -> bool:
    """True when the service on `port` answers that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_for(condition: Callable[[], bool], name: str, log: Path, *, timeout_s: float) -> None:
    """Poll until `condition()`; raises StackFailed naming the log when time is up."""
    ends = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > ends:
            raise StackFailed(failure(f"{name} was not ready after {timeout_s:.0f} s", log))
        time.sleep(POLL_S)


def failure(what: str, log: Path) -> str:
    """What failed, where the log is, and its last line."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = f"; its last line: {lines[-1][:300]}" if lines else ""
    return f"{what}; log: {log}{last}"


def say(line: str) -> None:
    """One line for the person who waits."""
    print(f"stack: {line}", flush=True)


def main() -> None:
    """Parse the command line; exit 1 with one line on failure."""
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("DERMNOTE_HOME", ".dermnote")))
    arguments = parser.parse_args()
    layout = read_layout(arguments.home, os.environ)
    try:
        {"up": up, "down": down, "status": status}[arguments.command](layout)
    except StackFailed as failed:
        sys.exit(f"stack: {failed}")


if __name__ == "__main__":
    main()
