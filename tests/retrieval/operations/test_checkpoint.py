"""Starting from the index on disk: what came since is replayed, and what does not fit is made from the store."""

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dermnote_retrieval.operations.checkpoint import MANIFEST


def found(client: Any, text: str = "red") -> list[str]:
    answer = client.post("/search", json={"text": text, "k": 50})
    assert answer.status_code == 200, answer.text
    return sorted(hit["id"] for hit in answer.json()["hits"])


def serving(client: Any) -> Any:
    return client.app.state.service.catalogue.serving


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    return tmp_path / "data" / "index"


def crash(data: Path, to: Path) -> None:
    """The data folder as kill -9 would leave it now."""
    shutil.copytree(data, to)


def test_a_clean_end_leaves_the_index_and_the_next_start_takes_it(
    run: Any, put: Any, paint: Any, index_dir: Path
) -> None:
    with run() as client:
        put(client, "a", note="red", image=paint())
        before = serving(client).indexes["images"].vector(1)
    told = json.loads((index_dir / MANIFEST).read_text())
    assert (told["change"], told["model_id"], told["routes"]["notes"]["count"]) == (1, "dummy-1", 1)

    with run() as client:
        assert client.app.state.service.checkpoint.behind("dummy-1") == 0
        assert np.array_equal(serving(client).indexes["images"].vector(1), before)
        assert found(client) == ["a"]


def test_what_came_after_it_is_replayed(run: Any, put: Any, tmp_path: Path) -> None:
    with run() as client:
        for name in "abc":
            put(client, name, note=f"red {name}")
    with run() as client:
        put(client, "b", note="blue now")
        put(client, "d", note="red d")
        client.delete("/items/a")
        put(client, "c", metadata={"age": 4})  # no note any more
        crash(tmp_path / "data", tmp_path / "crashed")

    with run(data_dir=tmp_path / "crashed") as client:
        assert client.app.state.service.checkpoint.behind("dummy-1") == 4
        assert found(client) == ["b", "d"]
        assert client.get("/health/ready").json()["checks"]["index"] == "ok"


def tell(folder: Path, **changed: Any) -> None:
    told = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(told | changed))


def break_vectors(folder: Path) -> None:
    path = folder / "notes" / "vectors.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def hold_fewer(folder: Path) -> None:
    """Whole, but of a store that held less: only the counts tell."""
    np.save(folder / "notes" / "numbers.npy", np.array([1]))
    np.save(folder / "notes" / "vectors.npy", np.load(folder / "notes" / "vectors.npy")[:1])
    told = json.loads((folder / MANIFEST).read_text())
    told["routes"]["notes"]["count"] = 1
    tell(folder, routes=told["routes"], crc32={})


HARMS: dict[str, Callable[[Path], object]] = {
    "manifest": lambda folder: (folder / MANIFEST).write_text('{"store": '),
    "vectors": break_vectors,
    "missing": lambda folder: (folder / "notes" / "vectors.npy").unlink(),
    "another store": lambda folder: tell(folder, store="0" * 32),
    "ahead": lambda folder: tell(folder, change=9),
    "fewer": hold_fewer,
}


@pytest.mark.parametrize("harm", HARMS)
def test_one_that_does_not_fit_is_passed_over(
    run: Any, put: Any, index_dir: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    with run() as client:
        put(client, "a", note="red a")
        put(client, "b", note="red b")
    HARMS[harm](index_dir)

    with caplog.at_level(logging.WARNING), run() as client:
        assert found(client) == ["a", "b"]
        assert client.get("/health/ready").status_code == 200
    assert ("checkpoint" in caplog.text) == (harm not in ("missing", "another store"))
    with run() as client:  # and the next one is whole again
        assert client.app.state.service.checkpoint.behind("dummy-1") == 0
        assert found(client) == ["a", "b"]


def test_lists_are_kept_too(run: Any, tmp_path: Path, index_dir: Path) -> None:
    draw = np.random.default_rng(0)
    lines = [
        json.dumps({"id": f"i{n}", "note_vector": draw.normal(size=64).tolist(), "model": "dummy-aligned-1"})
        for n in range(1500)
    ]
    settings = {"model": "dummy-aligned", "flat_vectors": 1000, "recall_goal": 0.9}
    with run(**settings) as client:
        headers = {"Content-Type": "application/x-ndjson"}
        assert client.post("/items/bulk", content="\n".join(lines), headers=headers).text.count("created") == 1500
        client.app.state.service.upkeep.look()
        before = client.get("/index").json()["routes"]["notes"]
        hits = client.post("/search", json={"item_id": "i3", "via": "notes"}).json()["hits"]
    assert (before["kind"], before["vectors"]) == ("ivf-sq8", 1500)
    assert before["recall"]["value"] >= 0.9

    with run(**settings) as client:
        assert client.get("/index").json()["routes"]["notes"] == before
        assert client.post("/search", json={"item_id": "i3", "via": "notes"}).json()["hits"] == hits


def test_after_a_move_to_another_model_the_checkpoint_is_of_that_one(run: Any, put: Any, index_dir: Path) -> None:
    with run() as client:
        put(client, "a", note="red")
    with run() as client:
        client.put("/models/active", json={"name": "dummy-aligned"})
        while client.get("/index").json()["model"] != "dummy-aligned-1":
            pass
    assert json.loads((index_dir / MANIFEST).read_text())["model_id"] == "dummy-aligned-1"
    with run() as client:
        assert serving(client).model_id == "dummy-aligned-1"
        assert found(client) == ["a"]


def test_a_store_of_the_schema_before_opens_and_is_upgraded(run: Any, put: Any, tmp_path: Path) -> None:
    with run() as client:
        put(client, "a", note="red")
    shutil.rmtree(tmp_path / "data" / "index")
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


def test_a_restored_snapshot_forgets_the_checkpoint(run: Any, put: Any, tmp_path: Path) -> None:
    """Change numbers go back with the store: a checkpoint of the time after it would seem to fit."""
    with run() as client:
        put(client, "a", note="red")
        snapshot = client.post("/index/snapshots").json()["id"]
        put(client, "b", note="red")
    with run() as client:
        assert client.post(f"/index/snapshots/{snapshot}/restore").status_code == 200
        put(client, "c", note="red")
        crash(tmp_path / "data", tmp_path / "crashed")
    with run(data_dir=tmp_path / "crashed") as client:
        assert found(client) == ["a", "c"]
