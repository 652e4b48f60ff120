"""Addresses at which a service without API keys may listen, and that it responds at each of them."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic_settings import SettingsConfigDict

from dermnote_contracts.problems import StartRefused
from dermnote_http.auth import LoopbackGuard, open_keys
from dermnote_http.keys import add_key
from dermnote_http.settings import ServiceSettings

LOOPBACK = ["127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "::1"]
BEYOND = ["0.0.0.0", "::", "192.168.1.7", "128.0.0.1", "example.org", "127.0.0.1.example.org", ""]  # noqa: S104


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="TEST_")

    port: int = 8000


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(LoopbackGuard)

    @app.get("/")
    def root() -> str:
        return "ok"

    return TestClient(app)


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_loopback_address_needs_no_keys_and_is_a_valid_host_and_origin(client: TestClient, host: str) -> None:
    assert open_keys(Settings(host=host)) is None

    name = f"[{host}]" if ":" in host else host
    for headers in ({"Host": f"{name}:8000"}, {"Host": name, "Origin": f"http://{name}:3000"}):
        assert client.get("/", headers=headers).status_code == 200


@pytest.mark.parametrize("host", BEYOND)
def test_an_address_beyond_loopback_needs_keys_or_consent(client: TestClient, tmp_path: Path, host: str) -> None:
    with pytest.raises(StartRefused, match=r"TEST_KEYS_FILE.*ALLOW_UNAUTHENTICATED"):
        open_keys(Settings(host=host))

    assert open_keys(Settings(host=host, allow_unauthenticated=True)) is None
    add_key(tmp_path / "keys", "clinic")
    assert open_keys(Settings(host=host, keys_file=tmp_path / "keys")) is not None
    if host:
        assert client.get("/", headers={"Host": f"[{host}]" if ":" in host else host}).status_code == 403
