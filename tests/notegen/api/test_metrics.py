"""/metrics of the note service: the queue, the workers, ended notes."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dermnote_contracts.notes import Note
from dermnote_contracts.problems import QueueUnavailable
from dermnote_notegen.api.app import create_app
from dermnote_notegen.api.jobs import queue_errors
from dermnote_notegen.queue.records import NoteStore
from dermnote_notegen.settings import Settings
from tests.notegen.conftest import FACTS, HOST
from tests.notegen.processes import NoteService
from tests.ports import free_port

BODY = {"metadata": FACTS, "strategy": "M"}


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Samples by (name, label values)."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(client: TestClient) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return samples(answer.text)


def test_waiting_notes_and_cancelled_ones_are_counted(client: TestClient) -> None:
    ids = [client.post("/notes", json=BODY).json()["id"] for _ in range(3)]
    assert scrape(client)["dermnote_notegen_jobs", "waiting"] == 3

    client.delete(f"/notes/{ids[0]}")

    now = scrape(client)
    assert now["dermnote_notegen_jobs", "waiting"] == 2
    assert now["dermnote_notegen_jobs", "running"] == 0
    assert now["dermnote_notegen_workers",] == 0
    assert now["dermnote_notegen_notes_ended_total", "cancelled"] == 1


def test_a_note_that_is_ended_twice_counts_once(client: TestClient, redis: Redis) -> None:
    store = NoteStore(redis, note_ttl_s=60)
    note_id = client.post("/notes", json=BODY).json()["id"]

    assert store.cancel(note_id)
    assert not store.finish(note_id, [])

    ended = {
        labels: value for labels, value in scrape(client).items() if labels[0] == "dermnote_notegen_notes_ended_total"
    }
    assert ended == {("dermnote_notegen_notes_ended_total", "cancelled"): 1}


def test_finished_texts_are_counted_by_source(running: NoteService) -> None:
    def read() -> dict[tuple[str, ...], float]:
        return samples(httpx.get(f"{running.url}/metrics", timeout=30).text)

    before = read()
    answer = httpx.post(f"{running.url}/notes", json=BODY, headers={"Prefer": "wait=30"}, timeout=40)
    (note,) = [Note.model_validate(one) for one in answer.json()["notes"]]

    after = read()
    texts = ("dermnote_notegen_texts_total", note.provenance.source)
    ended = ("dermnote_notegen_notes_ended_total", "finished")
    assert after[texts] - before.get(texts, 0) == 1
    assert after[ended] - before.get(ended, 0) == 1
    assert after["dermnote_notegen_workers",] > 0


@pytest.fixture
def without_redis() -> Iterator[TestClient]:
    """The API where no Redis is."""
    away = Redis(port=free_port(), retry=Retry(NoBackoff(), 0))
    with TestClient(create_app(Settings(), redis=away), base_url=HOST, raise_server_exceptions=False) as served:
        yield served


def test_without_redis_the_metrics_report_it(without_redis: TestClient) -> None:
    now = scrape(without_redis)

    assert now["dermnote_notegen_redis_up",] == 0
    assert ("dermnote_notegen_workers",) not in now


def test_before_redis_is_full_new_notes_are_rejected_and_accepted_ones_still_end(
    client: TestClient, redis: Redis
) -> None:
    store = NoteStore(redis, note_ttl_s=60)
    accepted = client.post("/notes", json=BODY).json()["id"]
    redis.config_set("maxmemory", int(store.memory().used / 0.9))
    try:
        refused = client.post("/notes", json=BODY)
        assert (refused.status_code, refused.json()["code"]) == (503, "queue-full")
        assert "MiB" in refused.json()["detail"]
        assert scrape(client)["dermnote_notegen_redis_bytes", "limit"] > 0
        assert store.start(accepted)
        assert store.finish(accepted, [])
    finally:
        redis.config_set("maxmemory", 0)
    assert client.get(f"/notes/{accepted}").json()["status"] == "finished"


def test_an_out_of_memory_error_of_redis_is_503(redis: Redis) -> None:
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable, match="memory"), queue_errors():
            redis.set("one", "more")
    finally:
        redis.config_set("maxmemory", 0)
