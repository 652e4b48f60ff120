"""Requests that the OpenAPI document allows or forbids are answered as documented."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from dermnote_retrieval.app import create_app
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings
from tests.schemas import check, document, few

api_schema = document("retrieval")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service over a store of a few items, so that searches return hits."""
    chosen = Settings(data_dir=tmp_path_factory.mktemp("data"), encoder="dummy", model="dummy-aligned")
    app = create_app(chosen, service=open_service(chosen))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        for name in ("a", "b", "0"):
            assert client.put(f"/items/{name}", data={"note": f"red {name}"}).status_code == 201
        yield client


@api_schema.parametrize()  # type: ignore[untyped-decorator]
@few
def test_answers_are_as_documented(case: Any, client: TestClient) -> None:
    check(case, client)
