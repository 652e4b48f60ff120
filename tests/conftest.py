"""For all tests: how they are distributed, a temporary folder per worker, and a check that each test cleans up."""

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
# In the environment of every process that a test starts.
MARK = "DERMNOTE_TEST_RUN"
# Starts stacks of its own.
OWN_STACKS = "tests/e2e/test_stack.py"
# What tools and Python itself write.
CACHES = (".coverage", ".grimp", ".hypothesis", ".import_linter", ".mypy", ".pytest", ".ruff", ".venv", "__pycache__")
# What tests install once, for all runs.
INSTALLED = (".dermnote/junit.xml", ".dermnote/peers/", ".dermnote/tools/")
# What multiprocessing (until the process ends) and ONNX Runtime write to the temporary folder.
LIBRARIES = ("pymp-", ".ses")
# Child processes that the standard library starts once and keeps.
KEPT = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker a temporary folder; pytest's own folders stay where they are kept for debugging."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # In /tmp, since paths of Unix sockets must be short; those of pytest-xdist's workers are in that of their parent.
    place = os.environ["TMPDIR"] if hasattr(config, "workerinput") else "/tmp"  # noqa: S108
    os.environ["TMPDIR"] = tempfile.tempdir = folder = tempfile.mkdtemp(prefix="dnt-", dir=place)
    os.environ[MARK] = uuid.uuid4().hex
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # compiling ranx would take half a minute
    # Runs after multiprocessing has deleted its own folder there (priority -100).
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-101)


class _ByFile(LoadScopeScheduling):
    """Runs the tests of a file in one worker, since they share fixtures, and all tests of the session's stack."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") and file != OWN_STACKS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """How pytest-xdist distributes the tests."""
    return _ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _nothing_outlives_the_tests() -> Iterator[None]:
    """Check at the end that no process is left, and no new file in the repository."""
    files = _files()
    yield
    left = [process for process in psutil.process_iter(["cmdline"]) if _is_ours(process)]
    for process in left:
        process.kill()
    assert not left, f"tests left processes behind: {[process.info['cmdline'] for process in left]}"
    assert _files() <= files, f"tests left files in the repository: {sorted(_files() - files)}"


def _is_ours(process: psutil.Process) -> bool:
    try:
        ours = process.environ().get(MARK) == os.environ[MARK] and process.pid != os.getpid()
        return ours and not any(name in " ".join(process.info["cmdline"] or []) for name in KEPT)
    except psutil.Error:
        return False


def _files() -> set[str]:
    """The paths that git does not track, ignored ones included; none if this is not a checkout."""
    if not (ROOT / ".git").exists():
        return set()
    command = ["git", "status", "--porcelain", "--ignored", "--untracked-files=all"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = {line[3:] for line in listed.splitlines() if line[:2] in ("??", "!!")}
    # A stack that runs in this checkout writes to its home.
    others = (".dermnote/",) if (ROOT / ".dermnote" / "supervisord.pid").exists() else INSTALLED
    return {path for path in paths if not any(name in path for name in (*CACHES, *others))}


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a child process, a listening port, or a file outside its own folder."""
    before = _held()
    yield
    left = {kind: now - before[kind] for kind, now in _held().items() if now - before[kind]}
    assert not left, f"the test left behind: {left}"


def _held() -> Mapping[str, set[str]]:
    return {"processes": set(_children()), "ports": set(_ports()), "files": _names()}


def _children() -> Iterator[str]:
    """Pid and command line of every child process."""
    tasks = Path("/proc/self/task")
    if tasks.exists():
        pids = [pid for task in tasks.iterdir() for pid in _forked_by(task)]
    else:
        pids = [child.pid for child in psutil.Process().children()]
    for pid in pids:
        try:
            command = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            continue
        if not any(name in command for name in KEPT):
            yield f"{pid} {command}"


def _forked_by(task: Path) -> list[int]:
    try:
        return [int(pid) for pid in (task / "children").read_text().split()]
    except OSError:  # the thread has ended
        return []


def _ports() -> Iterator[str]:
    """Addresses on which this process listens."""
    for name in os.listdir("/dev/fd"):  # noqa: PTH208  names are all that is needed
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as found:
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield str(found.getsockname())
        except OSError:  # closed meanwhile
            continue


def _names() -> set[str]:
    """What is in the temporary folder, and in the folder in which the tests run."""
    paths = (path for folder in (Path(tempfile.gettempdir()), Path.cwd()) for path in folder.iterdir())
    return {str(path) for path in paths if not path.name.startswith((*CACHES, *LIBRARIES, ".dermnote"))}
