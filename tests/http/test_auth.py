"""Authentication with API keys: open and protected paths, error responses, rate limits, and unread bodies."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient

from dermnote_contracts.problems import PROBLEM_JSON, TooManyRequests
from dermnote_http.auth import BEARER, Caller, KeyGuard, caller_of
from dermnote_http.errors import install_problem_handlers
from dermnote_http.keys import KeyFile, add_key, remove_key
from dermnote_http.rate_limit import RateLimiter
from tests.notegen.processes import wait_until
from tests.train.servers import served

LIMIT = 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def key(file: Path) -> str:
    return add_key(file, "clinic")


@pytest.fixture
def app(file: Path, key: str) -> FastAPI:
    """A service with one key and no limit; it counts the body bytes that it has read."""
    app = FastAPI()
    app.state.bytes_read = 0
    install_problem_handlers(app)
    app.add_middleware(KeyGuard, keys=KeyFile(file), limiter=RateLimiter.in_memory())

    @app.post("/raw", dependencies=[Depends(BEARER)])
    async def raw(request: Request) -> str:
        app.state.bytes_read += len(await request.body())
        return caller_of(request).name

    @app.post("/worth/{units}")
    async def worth(units: int, request: Request) -> None:
        await caller_of(request).charge(units)

    @app.get("/health/live")
    def live() -> str:
        return "ok"

    @app.get("/metrics")
    def metrics() -> str:
        return "metrics"

    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def is_unauthorized(answer: Any) -> bool:
    """Whether a response is a complete 401 problem."""
    assert answer.headers["content-type"] == PROBLEM_JSON
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["status"] == 401
    return bool(answer.status_code == 401 and answer.json()["code"] == "unauthorized")


def test_a_valid_key_passes_and_the_route_gets_its_name(client: TestClient, key: str) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert client.post("/raw", headers={"Authorization": f"{scheme} {key}"}).json() == "clinic"


@pytest.mark.parametrize("form", ["", "{}", "Basic {}", "Bearer", "Bearer ", "Bearer {}x", "Bearer {} {}", "Bearer,{}"])
def test_anything_but_one_valid_key_is_401(client: TestClient, key: str, form: str) -> None:
    assert is_unauthorized(client.post("/raw", headers={"Authorization": form.format(key, key)}))


def test_no_header_two_headers_and_invalid_bytes_are_401(client: TestClient, key: str) -> None:
    good = (b"Authorization", f"Bearer {key}".encode())

    assert is_unauthorized(client.post("/raw"))
    assert is_unauthorized(client.post("/raw", headers=[good, good]))
    assert is_unauthorized(client.post("/raw", headers=[(b"Authorization", b"Bearer \xff\xfe\xe4")]))


def test_an_error_repeats_nothing_of_the_key(client: TestClient, key: str) -> None:
    assert key[:-1] not in client.post("/raw", headers=bearer(key[:-1])).text


def test_a_revoked_key_is_401_at_its_next_request(client: TestClient, file: Path, key: str) -> None:
    other = add_key(file, "other")
    assert client.post("/raw", headers=bearer(key)).status_code == 200
    remove_key(file, "clinic")

    assert is_unauthorized(client.post("/raw", headers=bearer(key)))
    assert client.post("/raw", headers=bearer(other)).json() == "other"


@pytest.mark.parametrize("path", ["/health/live", "/docs", "/docs/oauth2-redirect", "/openapi.json"])
def test_liveness_and_documents_are_open(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/redoc", "/nowhere", "/health/live/", "/health/live/x", "//health/live"])
def test_all_other_paths_need_a_key_even_unknown_ones(client: TestClient, path: str) -> None:
    assert is_unauthorized(client.get(path))


def test_the_openapi_document_describes_the_key(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/raw"]["post"]["security"] == [{"key": []}]


def test_a_key_with_a_limit_is_429_until_its_window_moves(client: TestClient, file: Path, key: str) -> None:
    limited = bearer(add_key(file, "limited", per_minute=LIMIT))
    assert [client.post("/raw", headers=limited).status_code for _ in range(LIMIT)] == [200] * LIMIT

    answer = client.post("/raw", headers=limited)

    assert (answer.status_code, answer.json()["code"]) == (429, "too-many-requests")
    assert answer.headers["content-type"] == PROBLEM_JSON
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert client.post("/raw", headers=bearer(key)).status_code == 200
    assert client.get("/health/live", headers=limited).status_code == 200


def test_a_request_of_several_units_is_counted_completely_or_not_at_all(client: TestClient, file: Path) -> None:
    limited = bearer(add_key(file, "limited", per_minute=10))

    assert client.post("/worth/7", headers=limited).status_code == 200
    assert client.post("/worth/7", headers=limited).status_code == 429
    assert client.post("/worth/2", headers=limited).status_code == 200
    assert client.post("/worth/1", headers=limited).status_code == 429


def test_a_request_worth_more_than_the_limit_per_minute_is_422(client: TestClient, file: Path) -> None:
    answer = client.post("/worth/11", headers=bearer(add_key(file, "limited", per_minute=10)))

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
    assert "11 units" in answer.json()["detail"]
    assert "10 per minute" in answer.json()["detail"]


def test_a_key_without_a_limit_is_never_429(client: TestClient, key: str) -> None:
    assert client.post("/worth/1000000", headers=bearer(key)).status_code == 200


def test_without_keys_the_caller_is_anonymous_and_nothing_is_counted() -> None:
    app = FastAPI()

    @app.get("/")
    async def who(request: Request) -> str:
        await caller_of(request).charge(1_000_000)
        return caller_of(request).name

    with TestClient(app) as client:
        assert client.get("/").json() == Caller().name == ""


def test_units_are_available_again_after_the_window() -> None:
    limiter = RateLimiter.in_memory(window_s=1)
    waits: list[int | None] = []
    started = time.time()
    limiter.take("clinic", limit=5, units=5)

    def again() -> bool:
        try:
            limiter.take("clinic", limit=5, units=5, whole=5)
        except TooManyRequests as error:
            waits.append(error.retry_after_s)
            return False
        return True

    wait_until(again, timeout_s=60, what="the window has moved")
    assert time.time() - started >= 1
    assert set(waits) <= {1}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_rejected_upload_is_not_read_and_the_connection_stays_usable(app: FastAPI, key: str, chunked: bool) -> None:
    chunk, chunks = b"x" * 65536, 256
    body = (chunk for _ in range(chunks)) if chunked else chunk * chunks
    with served(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        streams = set()
        answer = client.post("/raw", content=body)
        assert is_unauthorized(answer)
        streams.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
        second = client.post("/raw", content=b"small", headers=bearer(key))
        streams.add(second.extensions["network_stream"].get_extra_info("client_addr"))

    assert second.json() == "clinic"
    assert app.state.bytes_read == len(b"small")
    assert len(streams) == 1
