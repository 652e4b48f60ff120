"""Redis records of version 0.1.0: the API reads every one of them, and a worker finishes what was queued.

notegen-0.1.0-redis.json holds the keys that version 0.1.0 left when its worker was killed while it wrote a note; bytes
are decoded as Latin-1. Keys that expire within minutes (workers' heartbeats, executions) are left out.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from dermnote_http.keys import add_key
from dermnote_notegen.api.app import create_app
from dermnote_notegen.settings import Settings
from tests.notegen.processes import NoteService, wait_until

RECORDS = json.loads(Path(__file__).with_name("notegen-0.1.0-redis.json").read_text())
IDS: dict[str, str] = RECORDS["ids"]
QUEUED: dict[str, Any] = {
    "metadata": {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"},
    "strategy": "G",
    "options": {"seed": 7},
}


def restore(redis: Redis) -> None:
    """Write every key of the file."""
    writers: dict[str, Callable[[bytes, Any], object]] = {
        "string": redis.set,
        "hash": lambda key, value: redis.hset(key, mapping=value),
        "list": lambda key, value: redis.rpush(key, *value),
        "set": lambda key, value: redis.sadd(key, *value),
        "zset": redis.zadd,
    }
    for key, record in RECORDS["keys"].items():
        writers[record["type"]](key, record["value"])
        if record["ttl_s"]:
            redis.expire(key, record["ttl_s"])


@pytest.fixture
def service() -> Iterator[NoteService]:
    """A Valkey that holds the records; the test starts the other programs that it needs."""
    folder = Path(tempfile.mkdtemp(prefix="dn-"))
    service = NoteService(folder, settings={"NOTEGEN_WORKERS": "2"})
    try:
        service.valkey.start()
        with Redis.from_url(service.redis_url, encoding="latin-1") as redis:
            restore(redis)
        yield service
    finally:
        service.stop()
        shutil.rmtree(folder)


@pytest.fixture
def client(service: NoteService) -> Iterator[TestClient]:
    """The API without keys."""
    with TestClient(create_app(Settings(redis_url=service.redis_url)), base_url="http://127.0.0.1:8001") as served:
        yield served


@pytest.fixture
def ann(service: NoteService, tmp_path: Path) -> Iterator[TestClient]:
    """The API with keys, as the owner of some of the records."""
    keys = tmp_path / "keys"
    headers = {"Authorization": f"Bearer {add_key(keys, 'ann')}"}
    app = create_app(Settings(redis_url=service.redis_url, keys_file=keys))
    with TestClient(app, base_url="http://127.0.0.1:8001", headers=headers) as served:
        yield served


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("finished", "finished"),
        ("failed", "failed"),
        ("running", "running"),
        ("cancelled", "cancelled"),
        ("queued", "queued"),
    ],
)
def test_the_api_reads_a_note_in_every_state(client: TestClient, name: str, status: str) -> None:
    answer = client.get(f"/notes/{IDS[name]}")

    assert answer.status_code == 200
    assert answer.json()["status"] == status


def test_a_finished_note_keeps_its_text_and_a_failed_one_its_reason(client: TestClient) -> None:
    (note,) = client.get(f"/notes/{IDS['finished']}").json()["notes"]

    assert "61 years" in note["text"]
    assert note["verification"]["faithful"]
    assert client.get(f"/notes/{IDS['failed']}").json()["error"]["code"] == "engine-crashed"


def test_records_keep_their_owner(client: TestClient, ann: TestClient) -> None:
    for path in (f"/notes/{IDS['anns_queued']}", f"/batches/{IDS['anns_finished_batch']}"):
        assert ann.get(path).status_code == 200
        assert client.get(path).status_code == 404
    assert ann.get(f"/notes/{IDS['queued']}").status_code == 404


def test_batches_keep_their_counts_and_their_order(client: TestClient, ann: TestClient) -> None:
    assert client.get(f"/batches/{IDS['queued_batch']}").json()["counts"]["queued"] == 3
    assert ann.get(f"/batches/{IDS['anns_finished_batch']}").json()["counts"]["finished"] == 2
    lines = ann.get(f"/batches/{IDS['anns_finished_batch']}/notes").text.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1]


def test_an_idempotency_key_still_gives_the_first_note(client: TestClient, ann: TestClient) -> None:
    headers = {"Idempotency-Key": "queued"}

    assert client.post("/notes", json=QUEUED, headers=headers).json()["id"] == IDS["queued"]
    assert ann.post("/notes", json=QUEUED, headers=headers).json()["id"] == IDS["anns_queued"]
    changed = client.post("/notes", json=QUEUED | {"strategy": "P2"}, headers=headers)
    assert changed.json()["code"] == "idempotency-key-reused"


def test_a_note_is_cancelled_and_erased(client: TestClient) -> None:
    assert client.delete(f"/notes/{IDS['queued']}").json()["status"] == "cancelled"
    assert client.delete(f"/notes/{IDS['queued']}").status_code == 204
    assert client.delete(f"/batches/{IDS['queued_batch']}").json()["counts"]["cancelled"] == 3


def test_a_worker_finishes_queued_notes_and_those_of_a_killed_worker(
    service: NoteService, client: TestClient, ann: TestClient
) -> None:
    service.worker.start()

    def statuses() -> list[str]:
        notes = [client.get(f"/notes/{IDS[name]}").json()["status"] for name in ("queued", "running")]
        return [*notes, ann.get(f"/notes/{IDS['anns_queued']}").json()["status"]]

    wait_until(lambda: statuses() == ["finished"] * 3, timeout_s=90, what="the notes have finished")
    wait_until(
        lambda: client.get(f"/batches/{IDS['queued_batch']}").json()["counts"]["finished"] == 3,
        timeout_s=30,
        what="the batch has finished",
    )
    with Redis.from_url(service.redis_url) as redis:
        batch = f"notegen:batch:{IDS['queued_batch']}"
        assert all(redis.ttl(key) > 0 for key in (batch, f"{batch}:notes"))
        assert redis.hgetall("notegen:counts:ended") == {b"finished": b"9", b"failed": b"1", b"cancelled": b"1"}
