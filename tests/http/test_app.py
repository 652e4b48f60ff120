"""The app factory: request ids in responses and log lines, metrics, documents; and the log formats."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from pydantic_settings import SettingsConfigDict

from dermnote_contracts.problems import StartRefused, UnknownNote
from dermnote_http.app import add_routes, base_app, start_errors
from dermnote_http.auth import open_keys
from dermnote_http.keys import add_key
from dermnote_http.logging import configure_logging, request_id, request_id_scope
from dermnote_http.rate_limit import RateLimiter
from dermnote_http.settings import ServiceSettings

REQUEST_ID = "0123456789abcdef0123456789abcdef"
log = logging.getLogger("dermnote.test")


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="TEST_")

    port: int = 8000


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def serve(settings: Settings) -> TestClient:
    router, health = APIRouter(), APIRouter()

    @router.get("/logged")
    def logged() -> str | None:
        log.info("in a worker thread")
        return request_id()

    @router.get("/missing")
    async def missing() -> None:
        raise UnknownNote

    @health.get("/health/live")
    def live() -> str:
        return "ok"

    app = base_app(
        settings,
        service="test",
        title="Test service",
        description="",
        keys=open_keys(settings),
        limiter=RateLimiter.in_memory(),
    )
    add_routes(app, [router], health=health)
    return TestClient(app, base_url="http://127.0.0.1")


def test_a_request_id_is_in_the_response_and_in_the_log_lines_of_its_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = serve(Settings())
    configure_logging()
    response = client.get("/logged", headers={"X-Request-ID": REQUEST_ID})
    generated = client.get("/logged").headers["x-request-id"]
    log.info("outside")

    assert (response.headers["x-request-id"], response.json()) == (REQUEST_ID, REQUEST_ID)
    assert len(generated) == 32
    assert generated != REQUEST_ID
    lines = [line.split(maxsplit=2)[2] for line in capsys.readouterr().err.splitlines() if "dermnote.test" in line]
    assert lines == [
        f"INFO dermnote.test [{REQUEST_ID}] in a worker thread",
        f"INFO dermnote.test [{generated}] in a worker thread",
        "INFO dermnote.test [-] outside",
    ]


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("0b7d3c1e-5a0f-4a2b-9d6e-1c2d3e4f5a6b", True),
        (REQUEST_ID.upper(), True),
        (f"urn:uuid:{REQUEST_ID}", False),
        (f"{{{REQUEST_ID}}}", False),
        ("0b7d3c1e-5a0f4a2b9d6e1c2d3e4f5a6b", False),
        (f"{REQUEST_ID}-", False),
    ],
)
def test_only_a_uuid_in_its_usual_forms_is_kept_as_request_id(given: str, is_kept: bool) -> None:
    response = serve(Settings()).get("/logged", headers={"X-Request-ID": given})

    assert (response.headers["x-request-id"] == given) is is_kept


def test_a_request_id_of_another_form_is_replaced_and_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    client = serve(Settings())
    configure_logging()
    response = client.get("/logged", headers={"X-Request-ID": "patient Smith"})

    assert len(response.headers["x-request-id"]) == 32
    assert "Smith" not in capsys.readouterr().err


def test_json_lines_have_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    with request_id_scope(REQUEST_ID):
        log.warning("%d items", 3)
    log.error("failed", exc_info=RuntimeError("broken"))

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert {name: first[name] for name in ("level", "logger", "request_id", "message")} == {
        "level": "WARNING",
        "logger": "dermnote.test",
        "request_id": REQUEST_ID,
        "message": "3 items",
    }
    assert first["time"]
    assert "RuntimeError: broken" in second["exc_info"]
    assert second["request_id"] == "-"


def test_every_app_has_its_own_metrics_and_documents_its_errors() -> None:
    client, other = serve(Settings()), serve(Settings())
    assert client.get("/missing").status_code == 404

    counted = 'dermnote_test_http_requests_total{handler="/missing",method="GET",status="4xx"} 1.0'
    assert counted in client.get("/metrics").text
    assert counted not in other.get("/metrics").text
    responses = client.get("/openapi.json").json()["paths"]["/missing"]["get"]["responses"]
    assert set(responses) == {"200", "4XX", "5XX"}


def test_with_keys_only_health_and_documents_are_open(tmp_path: Path) -> None:
    token = add_key(tmp_path / "keys", "clinic")
    client = serve(Settings(host="0.0.0.0", keys_file=tmp_path / "keys"))  # noqa: S104

    statuses = {path: client.get(path).status_code for path in ("/logged", "/metrics", "/health/live", "/openapi.json")}
    assert statuses == {"/logged": 401, "/metrics": 401, "/health/live": 200, "/openapi.json": 200}
    assert client.get("/logged", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert client.get("/logged").headers["x-request-id"]


def test_a_program_that_cannot_start_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, start_errors("some-program"):
        raise StartRefused("SOME_PORT: not a number")

    assert ended.value.code == 2
    assert capsys.readouterr().err == "some-program: cannot start: SOME_PORT: not a number\n"
