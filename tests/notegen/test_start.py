"""A program of the note service that cannot start prints one line that names the setting, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.notegen.processes import BIN

PROGRAMS = ["dermnote-notegen", "dermnote-notegen-worker", "dermnote-notegen-engine"]


def start(program: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / program],
        env={"NOTEGEN_MODEL": "scripted", **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"NOTEGEN_PORT": "many"}, "NOTEGEN_PORT"),
        ({"NOTEGEN_SLOTS": "0", "LOG_FORMAT": "xml"}, "NOTEGEN_SLOTS"),
        ({"NOTEGEN_REQUANTIZE": "q9"}, "NOTEGEN_REQUANTIZE"),
        ({"ALLOW_UNAUTHENTICATED": "perhaps"}, "ALLOW_UNAUTHENTICATED"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, program: str, variables: dict[str, str], named: str) -> None:
    ended = start(program, tmp_path, **variables)

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"{program}: cannot start: ")
    assert ended.stderr.count("\n") == 1
    assert all(name in ended.stderr for name in variables)
    assert named in ended.stderr


@pytest.mark.parametrize("program", PROGRAMS[:2])
@pytest.mark.parametrize("url", ["localhost", "http://127.0.0.1", "redis://127.0.0.1:99999/0", "redis://[::1/0"])
def test_an_invalid_redis_url_is_one_line(tmp_path: Path, program: str, url: str) -> None:
    ended = start(program, tmp_path, REDIS_URL=url)

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{program}: cannot start: REDIS_URL is invalid")
    assert ended.stderr.count("\n") == 1


def test_tuning_reports_a_wrong_setting_in_one_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "dermnote_notegen.engine.tune"],
        env={"NOTEGEN_THREADS": "many"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("dermnote_notegen.engine.tune: cannot start: NOTEGEN_THREADS")
    assert ended.stderr.count("\n") == 1


def test_the_worker_reports_the_setting_that_its_engine_rejects(tmp_path: Path) -> None:
    ended = start("dermnote-notegen-worker", tmp_path, NOTEGEN_MODEL=str(tmp_path / "missing.gguf"))

    assert ended.returncode != 0
    assert "missing.gguf" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("program", PROGRAMS[:2])
def test_priors_that_cannot_be_read_are_one_line(tmp_path: Path, program: str) -> None:
    (tmp_path / "priors").mkdir()
    (tmp_path / "priors" / "nevus.yaml").write_text("diagnosis: [")
    ended = start(program, tmp_path, NOTEGEN_PRIORS_DIR=str(tmp_path / "priors"))

    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "nevus.yaml" in ended.stderr
