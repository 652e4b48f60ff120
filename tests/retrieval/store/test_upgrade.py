"""Stores of older versions: the schema is upgraded, and the index checkpoint of 0.1 is removed."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dermnote_contracts.problems import StartRefused
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings


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


def test_a_folder_of_a_user_is_never_removed_as_a_checkpoint(run: Any, tmp_path: Path) -> None:
    kept = tmp_path / "data" / "index"
    (kept / "notes").mkdir(parents=True)
    (kept / "notes" / "vectors.npy").write_bytes(b"a checkpoint's file")
    (kept / "thesis.txt").write_text("years of work")

    with run():
        pass

    assert (kept / "thesis.txt").read_text() == "years of work"
    assert (kept / "notes" / "vectors.npy").exists()


def test_a_service_that_cannot_start_removes_no_checkpoint(tmp_path: Path) -> None:
    kept = tmp_path / "data" / "index" / "notes" / "vectors.npy"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"of another time")

    with pytest.raises(StartRefused):
        open_service(Settings(data_dir=tmp_path / "data", encoder="onnx", models_dir=tmp_path / "none"))

    assert kept.exists()
