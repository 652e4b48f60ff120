"""The note service with keys: notes are private, limits hold across processes, unsafe starts are rejected."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dermnote_contracts.notes import Note, Provenance, Verification
from dermnote_contracts.problems import StartRefused, TooManyRequests
from dermnote_http.keys import add_key, remove_key
from dermnote_http.rate_limit import RateLimiter
from dermnote_notegen.api.app import create_app
from dermnote_notegen.queue.records import NoteStore
from dermnote_notegen.settings import Settings
from tests.notegen.processes import wait_until
from tests.ports import free_port

BODY: dict[str, Any] = {"metadata": {"age": 61, "sex": "F", "site": "ARM", "diagnosis": "mel"}, "strategy": "M"}
OTHER: dict[str, Any] = BODY | {"metadata": {"diagnosis": "nv"}}
NOTE = Note(
    text="melanoma",
    strategy="M",
    facts=[],
    verification=Verification(faithful=True, coverage=1),
    provenance=Provenance(
        model=None, model_sha256=None, prompt_version="by hand", seed=0, attempts=0, source="template"
    ),
)
Serve = Callable[..., TestClient]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def serve(redis: Redis, settings: Settings, file: Path) -> Iterator[Serve]:
    """Starts a separate API per key, all with one Valkey and one key file."""
    with ExitStack() as running:

        def started(key: str | None, *, over: Redis | None = None, **changed: Any) -> TestClient:
            chosen = settings.model_copy(update={"keys_file": None if key is None else file} | changed)
            app = create_app(chosen, redis=over or Redis.from_url(settings.redis_url))
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            client = TestClient(app, base_url="http://127.0.0.1:8001", headers=headers, raise_server_exceptions=False)
            return running.enter_context(client)

        yield started


@pytest.fixture
def ann(serve: Serve, file: Path) -> TestClient:
    """A client with a key."""
    return serve(add_key(file, "ann"))


@pytest.fixture
def bob(serve: Serve, file: Path) -> TestClient:
    """A client with another key."""
    return serve(add_key(file, "bob"))


def finish(redis: Redis, note_id: str) -> None:
    assert NoteStore(redis, note_ttl_s=60).finish(note_id, [NOTE])


def batch_of(client: TestClient, items: list[dict[str, Any]], **headers: str) -> Any:
    return client.post("/notes/batch", json={"items": items}, headers=headers)


def units(client: TestClient, count: int, *, n: int = 1) -> Any:
    return batch_of(client, [BODY | {"options": {"n": n}}] * count)


def test_a_note_is_visible_to_its_own_key(ann: TestClient, redis: Redis) -> None:
    note_id = ann.post("/notes", json=BODY).json()["id"]
    assert ann.get(f"/notes/{note_id}").json()["status"] == "queued"
    finish(redis, note_id)

    assert ann.get(f"/notes/{note_id}").json()["notes"][0]["text"] == "melanoma"
    assert ann.delete(f"/notes/{note_id}").status_code == 204


@pytest.mark.parametrize("ended", [False, True])
def test_another_keys_note_is_unknown_on_every_route(
    ann: TestClient, bob: TestClient, redis: Redis, ended: bool
) -> None:
    note_id = ann.post("/notes", json=BODY).json()["id"]
    if ended:
        finish(redis, note_id)
    before = ann.get(f"/notes/{note_id}").json()

    for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
        theirs, nobodys = (bob.request(method, f"/notes/{one}{path}") for one in (note_id, "0" * 32))
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.json() == nobodys.json()
        assert theirs.json()["code"] == "unknown-note"
    assert ann.get(f"/notes/{note_id}").json() == before


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/notes"), ("DELETE", "")])
def test_another_keys_batch_is_unknown_on_every_route(ann: TestClient, bob: TestClient, method: str, path: str) -> None:
    batch = batch_of(ann, [BODY, OTHER]).json()
    theirs, nobodys = (bob.request(method, f"/batches/{one}{path}") for one in (batch["id"], "0" * 32))

    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json() == nobodys.json()
    assert theirs.json()["code"] == "unknown-batch"
    assert ann.get(f"/batches/{batch['id']}").json() == batch


def test_a_batch_and_its_notes_are_visible_to_its_own_key(ann: TestClient, bob: TestClient, redis: Redis) -> None:
    batch = batch_of(ann, [BODY, OTHER]).json()
    for note_id in redis.lrange("notegen:batch:" + batch["id"] + ":notes", 0, -1):
        finish(redis, note_id.decode())

    lines = ann.get(f"/batches/{batch['id']}/notes").text.splitlines()
    note_id = redis.lindex("notegen:batch:" + batch["id"] + ":notes", 0).decode()
    assert len(lines) == 2
    assert ann.get(f"/notes/{note_id}").status_code == 200
    assert bob.get(f"/notes/{note_id}").status_code == 404
    assert ann.delete(f"/batches/{batch['id']}").json()["counts"]["finished"] == 2


def test_idempotency_keys_are_separate_for_each_key(ann: TestClient, bob: TestClient) -> None:
    headers = {"Idempotency-Key": "one"}
    first = ann.post("/notes", json=BODY, headers=headers).json()["id"]

    theirs = bob.post("/notes", json=OTHER, headers=headers)
    assert theirs.status_code == 202
    assert theirs.json()["id"] != first
    assert ann.post("/notes", json=BODY, headers=headers).json()["id"] == first
    assert ann.post("/notes", json=OTHER, headers=headers).json()["code"] == "idempotency-key-reused"

    batch = batch_of(ann, [BODY], **{"Idempotency-Key": "two"}).json()["id"]
    assert batch_of(bob, [BODY], **{"Idempotency-Key": "two"}).json()["id"] != batch
    assert batch_of(ann, [BODY], **{"Idempotency-Key": "two"}).json()["id"] == batch


def test_a_replacement_key_of_the_same_name_sees_its_notes(serve: Serve, file: Path, ann: TestClient) -> None:
    note_id = ann.post("/notes", json=BODY).json()["id"]
    remove_key(file, "ann")
    renewed = serve(add_key(file, "ann"))

    assert renewed.get(f"/notes/{note_id}").status_code == 200
    assert ann.get(f"/notes/{note_id}").status_code == 401


def test_notes_with_and_without_owner_are_separate(serve: Serve, ann: TestClient) -> None:
    without = serve(None)
    of_nobody = without.post("/notes", json=BODY, headers={"Idempotency-Key": "one"}).json()["id"]
    of_ann = ann.post("/notes", json=OTHER, headers={"Idempotency-Key": "one"}).json()["id"]

    assert ann.get(f"/notes/{of_nobody}").status_code == 404
    assert without.get(f"/notes/{of_ann}").status_code == 404
    assert without.get(f"/notes/{of_nobody}").status_code == 200


def test_the_queue_carries_no_owner(ann: TestClient, redis: Redis) -> None:
    note_id = ann.post("/notes", json=BODY).json()["id"]

    assert b"ann" not in b"".join(redis.hgetall(f"rq:job:{note_id}").values())


def test_a_service_with_keys_requires_one_whatever_it_allows(serve: Serve, ann: TestClient) -> None:
    open_to_all = serve("dn_wrong", allow_unauthenticated=True, host="0.0.0.0")  # noqa: S104 (never bound)

    for path in ("/model", "/strategies", "/priors", "/metrics", "/notes/1", "/batches/1"):
        assert open_to_all.get(path).status_code == 401, path
    assert open_to_all.post("/notes", json=BODY).status_code == 401
    for path in ("/health/live", "/docs", "/openapi.json"):
        assert open_to_all.get(path).status_code == 200, path
    assert open_to_all.get("/health/ready").status_code in (200, 503)
    assert ann.get("/metrics").status_code == 200


def test_a_service_with_keys_answers_under_any_name(serve: Serve, file: Path) -> None:
    client = serve(add_key(file, "ann"), host="0.0.0.0")  # noqa: S104 (never bound)

    answer = client.get("/strategies", headers={"Host": "notes.example", "Origin": "https://page.example"})
    assert answer.status_code == 200


def test_two_api_processes_count_together(serve: Serve, file: Path) -> None:
    key = add_key(file, "limited", per_minute=4)
    one, two = serve(key), serve(key)
    codes = [client.get("/strategies").status_code for client in (one, two, one, two, one, two)]

    assert codes == [200] * 4 + [429] * 2
    assert 1 <= int(two.get("/strategies").headers["retry-after"]) <= 60


def test_limits_are_separate_for_each_key(serve: Serve, file: Path, ann: TestClient) -> None:
    limited, other = (serve(add_key(file, name, per_minute=1)) for name in ("limited", "other"))

    assert [client.get("/strategies").status_code for client in (limited, limited)] == [200, 429]
    assert [client.get("/strategies").status_code for client in (ann, ann, other)] == [200, 200, 200]


def test_every_note_of_a_batch_and_every_variant_is_a_unit(serve: Serve, file: Path, redis: Redis) -> None:
    client = serve(add_key(file, "limited", per_minute=12))

    assert units(client, 3, n=2).status_code == 202
    refused = units(client, 4, n=2)
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many-requests")
    assert len(list(redis.scan_iter("notegen:note:*"))) == 3
    assert units(client, 5).status_code == 202
    assert client.post("/notes", json=BODY).status_code == 429


def test_each_variant_of_a_note_is_a_unit(serve: Serve, file: Path) -> None:
    client = serve(add_key(file, "limited", per_minute=8))

    assert client.post("/notes", json=BODY | {"options": {"n": 8}}).status_code == 202
    assert client.get("/strategies").status_code == 429


def test_a_batch_may_use_the_whole_limit_and_a_larger_one_is_rejected(serve: Serve, file: Path) -> None:
    client, whole = (serve(add_key(file, name, per_minute=5)) for name in ("over", "whole"))

    refused = units(client, 6)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-request")
    assert "6 units" in refused.json()["detail"]
    assert "5 per minute" in refused.json()["detail"]
    assert units(whole, 5).status_code == 202


def test_an_invalid_batch_is_one_unit(serve: Serve, file: Path) -> None:
    client = serve(add_key(file, "limited", per_minute=5))

    assert batch_of(client, [{"metadata": {}}] * 4).status_code == 422
    assert units(client, 4).status_code == 202


def test_a_rejected_note_is_not_queued(serve: Serve, file: Path, redis: Redis) -> None:
    client = serve(add_key(file, "limited", per_minute=1))
    codes = [client.post("/notes", json=BODY).status_code for _ in range(3)]

    assert codes == [202, 429, 429]
    assert len(list(redis.scan_iter("notegen:note:*"))) == 1


def test_used_units_are_restored_after_the_window_and_expire_in_redis(redis: Redis) -> None:
    limiter = RateLimiter.in_redis(redis.connection_pool, prefix="used", window_s=1)
    limiter.take("ann", limit=10, units=9)

    def again() -> bool:
        try:
            limiter.take("ann", limit=10, units=10, whole=10)
        except TooManyRequests:
            return False
        return True

    wait_until(again, timeout_s=60, what="the window has moved")
    assert all(redis.ttl(key) != -1 for key in redis.scan_iter("used*"))  # -1: stays for ever


def test_without_redis_a_limited_key_gets_503_and_open_paths_answer(serve: Serve, file: Path) -> None:
    dead = Redis(port=free_port(), retry=Retry(NoBackoff(), 0))
    client = serve(add_key(file, "limited", per_minute=5), over=dead)

    answer = client.get("/strategies")
    assert (answer.status_code, answer.json()["code"]) == (503, "queue-unavailable")
    assert answer.headers["retry-after"]
    assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize("content", [None, "# none\n", "what is this\n"], ids=["missing", "empty", "invalid"])
def test_an_invalid_key_file_prevents_the_start_with_a_one_line_error(
    file: Path, settings: Settings, content: str | None
) -> None:
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartRefused, match="NOTEGEN_KEYS_FILE"):
        create_app(settings.model_copy(update={"keys_file": file}))

    started = subprocess.run(
        [Path(sys.executable).parent / "dermnote-notegen"],
        env={"NOTEGEN_KEYS_FILE": str(file), "NOTEGEN_HOST": "0.0.0.0", "REDIS_URL": settings.redis_url},  # noqa: S104
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 2
    assert started.stderr.count("\n") == 1
    assert "NOTEGEN_KEYS_FILE" in started.stderr
    assert "what" not in started.stderr
