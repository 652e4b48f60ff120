"""The note service's API installs and runs without any heavy library."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "faiss", "llama_cpp", "numpy", "open_clip", "onnxruntime")


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with only contracts, services/http and services/notegen."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "-c",
            ROOT / "constraints.txt",
            ROOT / "contracts",
            ROOT / "services/http",
            ROOT / "services/notegen",
        ],
        check=True,
    )
    return python


@pytest.mark.parametrize("library", HEAVY)
def test_the_note_api_installs_no_heavy_library(fresh_python: Path, library: str) -> None:
    script = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is not None)"

    assert subprocess.run([fresh_python, "-c", script], check=False).returncode == 0


def test_the_note_api_runs_in_that_environment(fresh_python: Path) -> None:
    script = (
        "from dermnote_notegen.api.app import create_app; from dermnote_notegen.settings import Settings;"
        "print(len(create_app(Settings()).openapi()['paths']))"
    )

    process = subprocess.run([fresh_python, "-c", script], capture_output=True, text=True, check=True)

    assert int(process.stdout) >= 9


def test_the_check_detects_a_heavy_library() -> None:
    script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 1
