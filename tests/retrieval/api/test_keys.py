"""The retrieval service with API keys: one collection for all keys, a limit per key, invalid key files."""

import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dermnote_contracts.problems import StartRefused
from dermnote_http.keys import add_key, remove_key
from dermnote_retrieval.app import create_app
from dermnote_retrieval.settings import Settings
from tests.retrieval.conftest import Put, Serve


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def key(file: Path) -> str:
    return add_key(file, "ann")


@pytest.fixture
def locked(serve: Serve, file: Path, key: str) -> TestClient:
    """The service with one key, which the client does not send by default."""
    return serve(keys_file=file)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_path_except_health_and_documents_requires_a_key(locked: TestClient, key: str) -> None:
    document = locked.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answer = locked.request(method, path)
            if path.startswith("/health/"):
                assert answer.status_code == 200
                assert "security" not in operation
            else:
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
                assert operation["security"] == [{"key": []}], path
    assert locked.get("/docs").status_code == 200
    assert locked.get("/metrics", headers=bearer(key)).status_code == 200


def test_nothing_is_stored_or_erased_without_a_key(locked: TestClient, key: str, put: Put) -> None:
    assert locked.put("/items/a", data={"note": "mine"}).status_code == 401
    assert locked.get("/items/a", headers=bearer(key)).status_code == 404
    locked.headers.update(bearer(key))
    put(locked, "a", note="mine")
    assert locked.delete("/items/a", headers=bearer("dn_wrong")).status_code == 401
    assert locked.get("/items/a").json()["note"] == "mine"


def test_all_keys_share_one_collection(locked: TestClient, file: Path, key: str, put: Put) -> None:
    locked.headers.update(bearer(key))
    put(locked, "a", note="ann's")

    assert locked.get("/items/a", headers=bearer(add_key(file, "bob"))).json()["note"] == "ann's"


def test_a_revoked_key_is_rejected_at_its_next_request(locked: TestClient, file: Path, key: str) -> None:
    assert locked.get("/index", headers=bearer(key)).status_code == 200
    remove_key(file, "ann")

    assert locked.get("/index", headers=bearer(key)).status_code == 401


def test_a_key_over_its_limit_gets_a_retry_after(locked: TestClient, file: Path, key: str) -> None:
    limited = bearer(add_key(file, "limited", per_minute=2))
    codes = [locked.get("/index", headers=limited).status_code for _ in range(3)]
    answer = locked.get("/index", headers=limited)

    assert codes == [200, 200, 429]
    assert answer.json()["code"] == "too-many-requests"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert locked.get("/index", headers=bearer(key)).status_code == 200
    assert locked.get("/health/ready", headers=limited).status_code == 200


def test_a_bulk_load_is_one_unit(locked: TestClient, file: Path) -> None:
    limited = bearer(add_key(file, "limited", per_minute=1))
    lines = b"".join(b'{"id": "i%d", "note": "a note"}\n' % number for number in range(20))
    headers = limited | {"Content-Type": "application/x-ndjson"}

    answer = locked.post("/items/bulk", content=lines, headers=headers)
    assert answer.status_code == 200
    assert len(answer.text.splitlines()) == 20
    assert locked.post("/items/bulk", content=lines, headers=headers).status_code == 429


def test_with_keys_the_service_may_listen_anywhere_under_any_host_name(serve: Serve, file: Path, key: str) -> None:
    client = serve(keys_file=file, host="0.0.0.0")  # noqa: S104 (never bound)

    answer = client.get("/index", headers=bearer(key) | {"Host": "search.example", "Origin": "https://page.example"})
    assert answer.status_code == 200


def test_keys_are_required_even_if_no_authentication_is_allowed(serve: Serve, file: Path, key: str) -> None:
    client = serve(keys_file=file, allow_unauthenticated=True)

    assert client.get("/index").status_code == 401
    assert client.get("/index", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("content", [None, "# none\n", "what is this\n"], ids=["missing", "empty", "invalid"])
def test_an_invalid_key_file_prevents_the_start_with_one_line(tmp_path: Path, file: Path, content: str | None) -> None:
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartRefused):
        create_app(Settings(keys_file=file, data_dir=tmp_path / "data"))

    started = subprocess.run(
        [sys.executable, "-m", "dermnote_retrieval"],
        env={
            "RETRIEVAL_KEYS_FILE": str(file),
            "RETRIEVAL_DATA_DIR": str(tmp_path / "data"),
            "RETRIEVAL_ENCODER": "dummy",
            "RETRIEVAL_HOST": "0.0.0.0",  # noqa: S104 (rejected before it listens)
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 2
    assert started.stderr.count("\n") == 1
    assert "RETRIEVAL_KEYS_FILE" in started.stderr
    assert "what" not in started.stderr
    assert not (tmp_path / "data").exists()
