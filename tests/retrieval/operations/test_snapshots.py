"""Snapshots over HTTP: a restore brings back exactly what was copied, or changes nothing."""

import hashlib
import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dermnote_contracts.problems import UnknownSnapshot
from dermnote_retrieval.operations.snapshots import MANIFEST, STORE


def take(client: TestClient) -> dict[str, Any]:
    answer = client.post("/index/snapshots")
    assert answer.status_code == 201, answer.text
    content: dict[str, Any] = answer.json()
    return content


def restore(client: TestClient, snapshot: dict[str, Any]) -> Any:
    return client.post(f"/index/snapshots/{snapshot['id']}/restore")


def found(client: TestClient, text: str = "red") -> list[str]:
    answer = client.post("/search", json={"text": text, "k": 50})
    assert answer.status_code == 200, answer.text
    return sorted(hit["id"] for hit in answer.json()["hits"])


def test_a_restore_brings_back_the_snapshot(client: Any, put: Any, paint: Any) -> None:
    put(client, "kept", note="a red lesion", image=paint(), metadata={"age": 40}, group="p1")
    put(client, "erased", note="a red spot")
    snapshot = take(client)
    put(client, "kept", note="changed", metadata={"age": 50})
    put(client, "later", note="a red patch")
    client.delete("/items/erased")

    assert restore(client, snapshot).json() == snapshot

    item = client.get("/items/kept").json()
    assert (item["note"], item["metadata"], item["group"]) == ("a red lesion", {"age": 40}, "p1")
    assert client.get("/items/kept/image").status_code == 200
    assert client.get("/items/later").status_code == 404
    assert found(client) == ["erased", "kept"]
    body = {"text": "red", "filter": {"age": {"lte": 45}}}
    assert [hit["id"] for hit in client.post("/search", json=body).json()["hits"]] == ["kept"]
    assert client.get("/health/ready").json()["checks"]["index"] == "ok"
    put(client, "new", note="a red mark")  # a number that another item had before
    assert found(client) == ["erased", "kept", "new"]


def test_a_snapshot_reports_its_content_and_is_listed_until_deleted(client: Any, put: Any, paint: Any) -> None:
    put(client, "a", note="one", image=paint())
    put(client, "b", note="two")
    first = take(client)
    second = take(client)

    assert (first["items"], first["vectors"], first["model_id"]) == (2, {"notes": 2, "images": 1}, "dummy-1")
    assert first["bytes"] > 0
    assert [one["id"] for one in client.get("/index/snapshots").json()] == sorted(
        [first["id"], second["id"]], reverse=True
    )
    assert client.delete(f"/index/snapshots/{first['id']}").status_code == 204
    assert client.get("/index/snapshots").json() == [second]
    assert restore(client, first).json()["code"] == "unknown-snapshot"
    assert client.delete("/index/snapshots/other").status_code == 404


def test_snapshots_and_restored_stores_survive_a_restart(run: Any, put: Any) -> None:
    with run() as client:
        put(client, "a", note="red")
        snapshot = take(client)
        put(client, "b", note="red")
    with run() as client:
        assert restore(client, snapshot).status_code == 200
    with run() as client:
        assert found(client) == ["a"]
        assert client.get("/index/snapshots").json() == [snapshot]


def test_a_damaged_snapshot_is_rejected_and_the_store_unchanged(client: Any, put: Any, tmp_path: Path) -> None:
    put(client, "a", note="red")
    snapshot, broken = take(client), take(client)
    folder = tmp_path / "data" / "snapshots"
    put(client, "b", note="red")
    path = folder / snapshot["id"] / STORE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (folder / broken["id"] / MANIFEST).write_text("{")

    assert (restore(client, snapshot).status_code, restore(client, snapshot).json()["code"]) == (
        409,
        "snapshot-damaged",
    )
    assert restore(client, broken).json()["code"] == "snapshot-damaged"
    path.unlink()
    assert restore(client, snapshot).json()["code"] == "snapshot-damaged"
    assert found(client) == ["a", "b"]
    assert [one["id"] for one in client.get("/index/snapshots").json()] == [snapshot["id"]]


def test_a_snapshot_of_another_schema_is_rejected_and_searches_continue(client: Any, put: Any, tmp_path: Path) -> None:
    """It is intact, so it is rejected only after the restore has begun."""
    put(client, "a", note="red")
    snapshot = take(client)
    folder = tmp_path / "data" / "snapshots" / snapshot["id"]
    with closing(sqlite3.connect(folder / STORE)) as store:
        store.execute("pragma user_version = 99")
    digest = hashlib.sha256((folder / STORE).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(snapshot | {"sha256": digest}))

    answer = restore(client, snapshot)

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "schema 99" in answer.json()["detail"]
    assert found(client) == ["a"]
    put(client, "b", note="red")
    assert found(client) == ["a", "b"]


def test_the_model_of_the_snapshot_is_served_again(client: Any, put: Any, paint: Any) -> None:
    put(client, "a", note="red", image=paint())
    snapshot = take(client)
    client.put("/models/active", json={"name": "dummy-aligned"})
    while client.get("/index").json()["model"] != "dummy-aligned-1":
        pass
    put(client, "b", note="red")

    assert restore(client, snapshot).status_code == 200

    index = client.get("/index").json()
    assert (index["model"], index["aligned"], index["items"]) == ("dummy-1", False, 1)
    assert found(client) == ["a"]
    put(client, "c", note="red")
    assert found(client) == ["a", "c"]


@pytest.mark.parametrize("name", ["..", ".", "a%2Fb", ".20261127T000000-aa"])
def test_names_cannot_leave_the_snapshot_folder(client: Any, name: str, tmp_path: Path) -> None:
    hidden = tmp_path / "data" / "snapshots" / ".20261127T000000-aa"
    hidden.mkdir(parents=True)

    assert client.post(f"/index/snapshots/{name}/restore").status_code in (404, 405, 422)
    assert client.delete(f"/index/snapshots/{name}").status_code in (404, 405, 422)
    assert (tmp_path / "data" / "store.sqlite3").exists()


def test_incomplete_snapshots_are_removed_at_the_next_start(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "some one's folder"
    left, others = folder / ".20261127T000000-0123abcd", folder / ".ssh"
    for path in (left, others):
        path.mkdir(parents=True)
        (path / STORE).write_bytes(b"half")

    with run(snapshots_dir=folder) as client:
        assert client.get("/index/snapshots").json() == []
    assert not left.exists()
    assert (others / STORE).read_bytes() == b"half"


def test_a_snapshot_deleted_during_its_restore_is_unknown(client: Any, put: Any, tmp_path: Path) -> None:
    put(client, "a", note="red")
    service = client.app.state.service
    snapshot = service.snapshots.take()
    service.snapshots.delete(snapshot.id)

    with pytest.raises(UnknownSnapshot), service.writer.new_epoch():
        service.snapshots.copy_back(snapshot)
    assert found(client) == ["a"]


def test_the_snapshot_folder_may_have_unusual_characters(run: Any, put: Any, tmp_path: Path) -> None:
    with run(snapshots_dir=tmp_path / "50% of #1?") as client:
        put(client, "a", note="red")
        snapshot = take(client)
        client.delete("/items/a")
        assert restore(client, snapshot).status_code == 200
        assert found(client) == ["a"]


def test_a_snapshot_is_consistent_during_writes_and_searches(client: Any, put: Any) -> None:
    """Bulk loads write pairs; a snapshot never contains half of one."""
    stop = threading.Event()
    failures: list[str] = []

    def write() -> None:
        number = 0
        while not stop.is_set():
            lines = [json.dumps({"id": f"{number}.{side}", "note": "red"}) for side in "ab"]
            answer = client.post(
                "/items/bulk", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
            )
            failures.extend([] if answer.text.count("created") == 2 else [answer.text])
            number += 1

    def search() -> None:
        while not stop.is_set():
            answer = client.post("/search", json={"text": "red"})
            failures.extend([] if answer.status_code in (200, 503) else [answer.text])

    others = [threading.Thread(target=write), threading.Thread(target=search)]
    for other in others:
        other.start()
    snapshots = [take(client) for _ in range(8)]
    for snapshot in snapshots[::3]:
        assert restore(client, snapshot).status_code == 200
    stop.set()
    for other in others:
        other.join(30)

    assert failures == []
    assert [snapshot["items"] % 2 for snapshot in snapshots] == [0] * 8
    assert restore(client, snapshots[4]).status_code == 200
    assert client.get("/index").json()["items"] == snapshots[4]["items"]
    assert client.get("/health/ready").status_code == 200
