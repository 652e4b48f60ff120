"""Redis' password: from a file or in the URL; an invalid file is a one-line error without the file's content."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from dermnote_notegen.queue.redis import PasswordUnreadable, connect
from dermnote_notegen.settings import Settings
from tests.notegen.processes import BIN, Valkey
from tests.ports import free_port

PASSWORD = "between us"  # noqa: S105


@pytest.fixture(scope="module")
def locked_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Valkey that requires a password."""
    port = free_port()
    server = Valkey(tmp_path_factory.mktemp("locked"), port=port)
    server.start()
    with Redis(port=port) as unlocked:
        unlocked.config_set("requirepass", PASSWORD)
    yield port
    server.stop()


def settings(port: int, password_file: Path | None, *, url_password: str = "") -> Settings:
    return Settings(redis_url=f"redis://{url_password}127.0.0.1:{port}/0", redis_password_file=password_file)


def written(folder: Path, text: str) -> Path:
    path = folder / "password"
    path.write_text(text)
    return path


def test_the_password_is_read_from_the_file_without_its_line_break(locked_port: int, tmp_path: Path) -> None:
    with connect(settings(locked_port, written(tmp_path, f"{PASSWORD}\n"))) as redis:
        assert redis.ping()


def test_without_the_file_redis_denies_access(locked_port: int) -> None:
    with connect(settings(locked_port, None)) as redis, pytest.raises(AuthenticationError):
        redis.ping()


def test_a_password_in_the_url_overrides_the_file(locked_port: int, tmp_path: Path) -> None:
    with (
        connect(settings(locked_port, written(tmp_path, PASSWORD), url_password=":wrong@")) as redis,  # noqa: S106
        pytest.raises(AuthenticationError),
    ):
        redis.ping()


@pytest.mark.parametrize("content", [None, "", " \n", b"\xff\xfe"])
def test_a_file_that_is_missing_empty_or_not_text_is_rejected(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(PasswordUnreadable, match=f"REDIS_PASSWORD_FILE: {path}"):
        connect(settings(1, path))


@pytest.mark.parametrize("program", ["dermnote-notegen", "dermnote-notegen-worker"])
def test_a_program_exits_with_a_one_line_error(tmp_path: Path, program: str) -> None:
    done = subprocess.run(
        [BIN / program],
        env={"REDIS_PASSWORD_FILE": str(tmp_path / "none"), "NOTEGEN_MODEL": "scripted"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == f"{program}: cannot start: REDIS_PASSWORD_FILE: {tmp_path}/none can't be read: No such file or directory"
    )
