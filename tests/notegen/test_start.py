"""A program of the note service that cannot start prints one line that names the setting, never a traceback."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dermnote_contracts.problems import StartRefused
from dermnote_http.settings import read_settings
from dermnote_notegen.settings import Settings
from tests.notegen.processes import BIN, NoteService

PROGRAMS = ["dermnote-notegen", "dermnote-notegen-worker", "dermnote-notegen-engine"]


def start(program: str, folder: Path, *, memory_kib: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    limited = ["sh", "-c", f'ulimit -v {memory_kib} && exec "$0"'] if memory_kib else []
    return subprocess.run(
        [*limited, BIN / program],
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
        ({"NOTEGEN_ENGINE_URL": "http://[::1"}, "NOTEGEN_ENGINE_URL"),
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


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NOTEGEN_ENGINE_URL", "localhost:8000"),
        ("NOTEGEN_CONTEXT_TOKENS", "4000000000"),
        ("NOTEGEN_CACHE_TOKENS", "4000000000"),
        ("NOTEGEN_THREADS", "1000"),
        ("NOTEGEN_ENGINE_SOCKET", "."),
        ("NOTEGEN_ENGINE_SOCKET", "run/.."),
        ("NOTEGEN_JOB_TIMEOUT_S", "9999999999"),
    ],
)
def test_values_that_no_program_can_use_are_rejected(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(StartRefused, match=f"^{variable}: "):
        read_settings(Settings)


@pytest.mark.parametrize("program", PROGRAMS[:2])
@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "http://127.0.0.1",
        "redis://127.0.0.1:99999/0",
        "redis://[::1/0",
        "redis://127.0.0.1/0?timeout=3",
        "redis://127.0.0.1/0?protocol=9",
    ],
)
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


ENGINE = "dermnote-notegen-engine"
LOADING = """
import pathlib, sys, time
from dermnote_notegen.engine.server import reserve_socket
reserve_socket(pathlib.Path(sys.argv[1]))
print("reserved", flush=True)
time.sleep(120)
"""


def engine_refuses(folder: Path, reason: str, **variables: str) -> str:
    """Check that the engine ends with one line on stderr that contains the reason; return the line."""
    ended = start(ENGINE, folder, **variables)

    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith(f"{ENGINE}: cannot start: ")
    assert ended.stderr.count("\n") == 1
    assert reason in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("path", "reason"),
    [("folder", "in use"), ("file/engine.sock", "exists"), ("x" * 120, "too long")],
)
def test_a_path_that_cannot_be_a_socket_is_one_line(short_folder: Path, path: str, reason: str) -> None:
    (short_folder / "folder").mkdir(exist_ok=True)
    (short_folder / "file").touch()

    assert "NOTEGEN_ENGINE_SOCKET" in engine_refuses(short_folder, reason, NOTEGEN_ENGINE_SOCKET=path)


def test_the_engine_does_not_delete_a_file_at_its_socket_path(short_folder: Path) -> None:
    (short_folder / "notes.csv").write_text("image,note\n")

    engine_refuses(short_folder, "in use", NOTEGEN_ENGINE_SOCKET="notes.csv")

    assert (short_folder / "notes.csv").read_text() == "image,note\n"


def test_the_engine_leaves_a_socket_alone_on_which_another_process_listens(short_folder: Path) -> None:
    path = short_folder / "other.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as caller:
        other.bind(str(path))
        other.listen()

        engine_refuses(short_folder, "another process listens there", NOTEGEN_ENGINE_SOCKET=str(path))

        caller.connect(str(path))
        path.unlink()


def test_a_second_engine_does_not_replace_the_first(short_folder: Path) -> None:
    service = NoteService(short_folder)
    service.engine.start()
    try:
        engine_refuses(short_folder, "another process listens there", NOTEGEN_ENGINE_SOCKET=str(service.engine_socket))

        assert service.engine_answers()
    finally:
        service.engine.stop()


def test_a_second_engine_does_not_start_while_the_first_loads_its_model(short_folder: Path) -> None:
    path = short_folder / "loading.sock"
    with subprocess.Popen([sys.executable, "-c", LOADING, path], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "reserved\n"
        assert not path.exists()

        engine_refuses(short_folder, "another process listens there", NOTEGEN_ENGINE_SOCKET=str(path))

        first.kill()


def test_the_socket_file_of_a_killed_engine_is_replaced(short_folder: Path) -> None:
    service = NoteService(short_folder)
    service.engine.start()
    service.engine.kill()
    assert service.engine_socket.is_socket()

    service.engine.start()
    try:
        assert service.engine_answers()
    finally:
        service.engine.stop()


def test_a_metrics_port_in_use_is_one_line(short_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])

        line = engine_refuses(short_folder, f"127.0.0.1:{port}", NOTEGEN_ENGINE_METRICS_PORT=port)

    assert "NOTEGEN_ENGINE_METRICS_PORT" in line


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_weights_that_cannot_be_read_are_one_line(short_folder: Path) -> None:
    """/proc/self/mem is a regular file whose first page cannot be read, even by root."""
    engine_refuses(short_folder, "NOTEGEN_MODEL=/proc/self/mem: cannot be read", NOTEGEN_MODEL="/proc/self/mem")


@pytest.mark.gguf
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory")
def test_a_context_beyond_the_memory_is_a_line_that_names_the_setting(short_folder: Path) -> None:
    variables = {"NOTEGEN_MODEL": "smollm2", "NOTEGEN_REQUANTIZE": "off", "NOTEGEN_CONTEXT_TOKENS": "1000000"}

    ended = start(ENGINE, short_folder, memory_kib=8 * 2**20, **variables)

    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"{ENGINE}: cannot start: ")
    assert "NOTEGEN_CONTEXT_TOKENS" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


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


@pytest.mark.parametrize("program", PROGRAMS[:2])
def test_a_folder_among_the_priors_is_one_line(tmp_path: Path, program: str) -> None:
    (tmp_path / "priors" / "nevus.yaml").mkdir(parents=True)
    ended = start(program, tmp_path, NOTEGEN_PRIORS_DIR=str(tmp_path / "priors"))

    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "nevus.yaml: cannot be read: Is a directory" in ended.stderr
