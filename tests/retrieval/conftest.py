"""The real app over a store in a temporary folder, with the dummy encoder unless a test needs weights."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from dermnote_retrieval.app import create_app
from dermnote_retrieval.encoder.base import ModelSource
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings

Paint = Callable[..., bytes]
Serve = Callable[..., TestClient]
Run = Callable[..., AbstractContextManager[TestClient]]
Put = Callable[..., Any]


@pytest.fixture
def paint() -> Paint:
    """Bytes of an image of one colour."""

    def painted(
        colour: str = "red", *, size: tuple[int, int] = (64, 48), form: str = "PNG", mode: str = "RGB"
    ) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", size, colour).convert(mode).save(out, form)
        return out.getvalue()

    return painted


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A context manager that runs the app over tmp_path/data; `source` replaces the source of models."""

    @contextmanager
    def running(*, source: ModelSource | None = None, **settings: Any) -> Iterator[TestClient]:
        chosen = Settings(**({"data_dir": tmp_path / "data", "encoder": "dummy"} | settings))
        app = create_app(chosen, service=open_service(chosen, source=source))
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
            yield client

    return running


@pytest.fixture
def serve(run: Run) -> Iterator[Serve]:
    """Start the app and keep it running until the test ends."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(run(**settings))


@pytest.fixture
def client(serve: Serve) -> TestClient:
    """The service with towers that are not aligned."""
    return serve()


@pytest.fixture
def aligned(serve: Serve) -> TestClient:
    """The service with aligned towers."""
    return serve(model="dummy-aligned")


@pytest.fixture
def put() -> Put:
    """PUT an item and check that it was stored."""

    def stored(client: TestClient, item_id: str, *, image: bytes | None = None, **fields: Any) -> Any:
        data = {k: json.dumps(v) if k == "metadata" else v for k, v in fields.items()}
        files = {"image": ("x", image)} if image is not None else None
        answer = client.put(f"/items/{item_id}", data=data, files=files)
        assert answer.status_code in (200, 201), answer.text
        return answer

    return stored
