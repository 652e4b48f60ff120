"""Answers conform to the OpenAPI document, for valid and invalid requests. No worker is running."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from dermnote_contracts.notes import ModelInfo
from dermnote_notegen.api.app import create_app
from dermnote_notegen.queue.records import MODEL
from dermnote_notegen.settings import Settings
from tests.schemas import check, document, few

# Ready is 503 here: no worker runs.
api = document("notegen").exclude(path="/health/ready")


@pytest.fixture(scope="module")
def served(valkey_url: str) -> Iterator[TestClient]:
    """The API over an empty Valkey that knows an engine's model."""
    with Redis.from_url(valkey_url) as redis:
        redis.flushdb()
        model = ModelInfo(name="scripted", sha256="0" * 64, context_tokens=2048, engine="scripted")
        redis.set(MODEL, model.model_dump_json())
        app = create_app(Settings(redis_url=valkey_url), redis=redis)
        with TestClient(app, base_url="http://127.0.0.1:8001", raise_server_exceptions=False) as client:
            yield client


@api.parametrize()  # type: ignore[untyped-decorator]
@few
def test_answers_are_as_documented(case: Any, served: TestClient) -> None:
    check(case, served)
