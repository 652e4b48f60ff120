"""Fixtures of the note service's tests: a real Valkey, the app on top of it, and the whole service."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from dermnote_notegen.api.app import create_app
from dermnote_notegen.settings import Settings
from tests.notegen.processes import NoteService, Valkey
from tests.ports import free_port

FACTS = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"}
HOST = "http://127.0.0.1:8001"


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="dn-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private Valkey server."""
    port = free_port()
    server = Valkey(tmp_path_factory.mktemp("valkey"), port=port)
    server.start()
    yield f"redis://127.0.0.1:{port}/0"
    server.stop()


@pytest.fixture
def redis(valkey_url: str) -> Iterator[Redis]:
    """An empty database."""
    with Redis.from_url(valkey_url) as connection:
        connection.flushdb()
        yield connection


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return Settings(redis_url=valkey_url)


@pytest.fixture
def client(redis: Redis, settings: Settings) -> Iterator[TestClient]:
    """The API with an empty Valkey and no workers."""
    with TestClient(create_app(settings, redis=redis), base_url=HOST, raise_server_exceptions=False) as served:
        yield served


@pytest.fixture(scope="session")
def running(short_folder: Path) -> Iterator[NoteService]:
    """The whole service with the scripted model, shared by the tests that kill nothing."""
    folder = short_folder / "shared"
    folder.mkdir()
    service = NoteService(folder)
    try:
        service.start()
        yield service
    finally:
        service.stop()
