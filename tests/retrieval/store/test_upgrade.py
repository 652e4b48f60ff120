"""Stores of older versions: the schema is upgraded, and the index checkpoint of 0.1 is removed."""

import sqlite3
from pathlib import Path
from typing import Any


def found(client: Any) -> list[str]:
    answer = client.post("/search", json={"text": "red", "k": 50})
    assert answer.status_code == 200, answer.text
    return sorted(hit["id"] for hit in answer.json()["hits"])


def test_a_store_with_schema_1_is_upgraded(run: Any, put: Any, tmp_path: Path) -> None:
    with run() as client:
        put(client, "a", note="red")
    with sqlite3.connect(tmp_path / "data" / "store.sqlite3") as older:
        for statement in (
            "drop index items_by_change",
            "drop table erased",
            "alter table items drop column changed",
            "alter table items drop column note_digest",
            "alter table items drop column signs",
            "alter table items drop column digest",
            "delete from meta where key in ('changes', 'store_id')",
            "pragma user_version = 1",
        ):
            older.execute(statement)
    older.close()

    with run() as client:
        assert found(client) == ["a"]
        put(client, "b", note="red")
    with run() as client:
        assert found(client) == ["a", "b"]


def test_the_index_checkpoint_of_an_older_version_is_removed(run: Any, put: Any, tmp_path: Path) -> None:
    with run() as client:
        put(client, "a", note="red")
    for name in ("index", ".index", ".index.old"):
        (tmp_path / "data" / name / "notes").mkdir(parents=True)
        (tmp_path / "data" / name / "notes" / "vectors.npy").write_bytes(b"of another time")

    with run() as client:
        assert found(client) == ["a"]
        assert client.get("/index").json()["checkpoint_behind"] == 0
    assert not list((tmp_path / "data").glob("*index*"))
