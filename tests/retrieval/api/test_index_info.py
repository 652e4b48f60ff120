"""GET /index, and the same values as gauges at /metrics."""

from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

NOTES, NDJSON = {"route": "notes"}, {"Content-Type": "application/x-ndjson"}


def metrics(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def metric(client: TestClient, name: str, labels: Mapping[str, str] | None = None) -> float:
    return metrics(client)[f"dermnote_retrieval_{name}", frozenset((labels or {}).items())]


def test_the_sizes_of_the_store_its_disk_and_the_snapshots_are_reported(client: Any, put: Any) -> None:
    put(client, "a", note="red")
    before = client.get("/index").json()
    assert before["snapshots"] == {"count": 0, "bytes": 0, "newest_at": None}
    snapshot = client.post("/index/snapshots").json()

    index = client.get("/index").json()

    assert index["snapshots"] == {"count": 1, "bytes": snapshot["bytes"], "newest_at": snapshot["created_at"]}
    assert index["store"]["bytes"] > 0
    assert index["store"]["free_bytes"] > 0
    assert metric(client, "snapshots_bytes") == snapshot["bytes"]
    assert metric(client, "store_bytes") == index["store"]["bytes"]


def test_checkpoint_behind_stays_in_the_answer_as_zero(client: Any, put: Any) -> None:
    """Clients and dashboards of 0.1 read it; there is no checkpoint any more."""
    put(client, "a", note="red")

    assert client.get("/index").json()["checkpoint_behind"] == metric(client, "checkpoint_behind") == 0


def test_shared_work_is_counted_by_kind(client: Any, put: Any, paint: Any) -> None:
    put(client, "a", note="red", image=paint())
    lines = "\n".join(f'{{"id": "i{number}", "note": "red"}}' for number in range(5))
    client.post("/items/bulk", content=lines, headers=NDJSON)
    client.post("/search", json={"text": "red"})

    assert metric(client, "work_size_sum", {"work": "store"}) == 6
    assert metric(client, "work_size_count", {"work": "store"}) == 2
    assert metric(client, "work_size_sum", {"work": "encode-images"}) == 1
    assert metric(client, "work_size_sum", {"work": "encode-texts"}) == 7
    assert metric(client, "work_size_count", {"work": "search"}) == 1
    assert metric(client, "work_seconds_count", {"work": "search"}) == 1


def test_vectors_are_counted_per_route_and_nothing_waits(client: Any, put: Any) -> None:
    put(client, "a", note="red")

    assert metric(client, "items") == metric(client, "vectors", NOTES) == 1
    assert metric(client, "index_building", NOTES) == 0
    assert ("dermnote_retrieval_index_recall", frozenset(NOTES.items())) not in metrics(client)
    waiting = client.get("/index").json()["waiting"]
    assert waiting == {"requests": 0, "loads": 0, "images": 0, "texts": 0, "searches": 0}
    assert all(metric(client, "waiting", {"what": name}) == 0 for name in waiting)
