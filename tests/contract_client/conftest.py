"""Both services as in production: the note service with all of its processes, the retrieval service in uvicorn."""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from dermnote_train.remote.notegen import NoteService
from dermnote_train.remote.retrieval import RetrievalService
from tests.notegen.processes import NoteService as Processes
from tests.notegen.processes import wait_until
from tests.train.servers import retrieval_service

Paint = Callable[[str], bytes]


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Valkey, engine with the scripted model, worker and API, in a folder with a path short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="dn-"))
    running = Processes(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


@pytest.fixture
def notes(processes: Processes) -> Iterator[NoteService]:
    """A client of a ready note service."""
    with NoteService(processes.url) as client:
        wait_until(lambda: client.health().status == "ok", timeout_s=60, what="the note service is ready")
        yield client


@pytest.fixture
def retrieval(tmp_path: Path) -> Iterator[RetrievalService]:
    """A client of an empty retrieval service with unaligned towers."""
    with retrieval_service(tmp_path / "store") as url, RetrievalService(url) as client:
        yield client


@pytest.fixture
def aligned(tmp_path: Path) -> Iterator[RetrievalService]:
    """A client of an empty retrieval service with aligned towers."""
    with retrieval_service(tmp_path / "store", model="dummy-aligned") as url, RetrievalService(url) as client:
        yield client


@pytest.fixture
def paint() -> Paint:
    """A function that returns a PNG image of one colour."""

    def painted(colour: str) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (32, 24), colour).save(out, "PNG")
        return out.getvalue()

    return painted
