"""The checks in tests/conftest.py fail tests that leave something behind."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
CLEAN = """
import subprocess, socket, sys, tempfile
def test_clean(tmp_path):
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)), tempfile.NamedTemporaryFile():
        subprocess.run([sys.executable, "-c", ""], check=True)
"""
LEAKING = {
    "processes": """
import subprocess, sys
KEPT = []
def test_leaking():
    KEPT.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
""",
    "ports": """
import socket
KEPT = []
def test_leaking():
    KEPT.append(socket.create_server(("127.0.0.1", 0)))
""",
    "files": """
import tempfile
def test_leaking():
    tempfile.mkdtemp()
""",
    "left files in the repository": """
import pathlib
def test_leaking():
    pathlib.Path("tests", "left.txt").touch()
""",
    "left processes behind": """
import subprocess, sys
SLEEP = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(60)"
def test_leaking():
    subprocess.run([sys.executable, "-c", SLEEP], check=True)
""",
}


def run(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run a test with our conftest.py, in its own repository."""
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / "tests").mkdir()
    shutil.copy(CONFTEST, folder / "tests")
    (folder / "tests" / "test_example.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_clean_test_passes(tmp_path: Path) -> None:
    done = run(tmp_path, CLEAN)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("what", LEAKING)
def test_a_test_that_leaves_something_behind_fails(tmp_path: Path, what: str) -> None:
    done = run(tmp_path, LEAKING[what])

    assert done.returncode == 1, done.stdout
    assert "1 passed, 1 error" in done.stdout
    assert what in done.stdout
