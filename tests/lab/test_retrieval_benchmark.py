"""The search benchmark with real arms on a few hundred vectors, and its ratios."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from lab.retrieval import read_arguments, run_arms
from lab.search.arms import Arm
from lab.search.load import Load
from lab.search.report import plot, ratios, table
from lab.search.vectors import DIM, clustered, keeping, lines, metadata
from tests.retrieval.graphs import write_folder


def arm(name: str, vectors: int, *, queries: float, p99: float, kind: str = "vector", **measurements: float) -> Arm:
    rows = [
        {"clients": clients, "queries": 9, "failed": 0, "queries_per_s": queries * clients, "p50_ms": 1, "p99_ms": p99}
        for clients in (1, 32)
    ]
    return Arm(name, vectors, {kind: rows}, {"peak_mib": 100.0} | measurements)


def test_vectors_have_unit_length_clusters_and_a_seed() -> None:
    rows = np.concatenate(list(clustered(2500, seed=3)))

    assert rows.shape == (2500, DIM)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(2500), abs=1e-5)
    assert np.array_equal(rows, np.concatenate(list(clustered(2500, seed=3))))
    assert not np.array_equal(rows[:5], next(clustered(5, seed=4)))
    nearest = np.sort(rows[:200] @ rows.T, axis=1)[:, -2]
    assert np.median(nearest) > 0.5  # own cluster
    assert np.median(rows[:200] @ rows.T) < 0.1  # others


@pytest.mark.parametrize(("share", "kept"), [(0.5, 5000), (0.01, 100), (0.0001, 1)])
def test_a_filter_keeps_its_share_of_the_items(share: float, kept: int) -> None:
    limit = keeping(share)["share"]["lte"]

    assert sum(metadata(number)["share"] <= limit for number in range(10_000)) == kept


def test_each_line_is_an_item_with_its_vector() -> None:
    first, second = (json.loads(line) for line in lines(next(clustered(2)), first=7, model="m").splitlines())

    assert (first["id"], second["id"], first["model"]) == ("i7", "i8", "m")
    assert len(base64.b64decode(first["image_vector"])) == DIM * 4


def test_a_row_of_a_load_has_throughput_and_percentiles() -> None:
    row = Load(clients=2, wall_s=2.0, seconds=[0.01] * 99 + [0.5], failed=3).row()

    assert (row["queries_per_s"], row["p50_ms"], row["failed"]) == (50, 10, 3)
    assert 10 < row["p99_ms"] < 500


def test_ratios_compare_equal_sizes_and_numbers_of_clients(tmp_path: Path) -> None:
    arms = [
        arm("dermnote", 100_000, queries=60, p99=40),
        arm("clip-retrieval", 100_000, queries=10, p99=100),
        arm("faiss alone", 100_000, queries=70, p99=20),
        arm("dermnote", 1_000_000, queries=20, p99=100),
        arm("lite, onnx", 64, queries=5, p99=9, kind="image", encode_p50_ms=20.0),
        arm("lite, openclip", 64, queries=1, p99=9, kind="image", encode_p50_ms=80.0),
    ]

    comparison = ratios(arms)

    assert comparison == {
        "queries/s over clip-retrieval's, 100000 vectors, 32 clients": 6,
        "p99 over clip-retrieval's, 100000 vectors, 32 clients": pytest.approx(0.4),
        "p99 with 1,000,000 vectors over that with 100,000, 1 clients": 2.5,
        "p99 with 1,000,000 vectors over that with 100,000, 32 clients": 2.5,
        "image queries/s, lite, onnx, 32 clients over one": 32,
        "image queries/s, lite, openclip, 32 clients over one": 32,
        "p50 of encoding an image, ONNX over open_clip": 0.25,
    }
    assert table(arms).count("\n") == 12
    plot(arms, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_ours_and_faiss_run_on_a_few_vectors() -> None:
    options = ["--sizes", "600", "--clients", "1", "4", "--seconds", "0.3", "--sides", "ours", "faiss"]
    ours, faiss = run_arms(read_arguments(options))

    assert list(ours.rows) == ["vector", "50 %", "1 %", "0.01 %"]
    for rows in ours.rows.values():
        assert [row["clients"] for row in rows] == [1, 4]
        assert all(row["failed"] == 0 and row["queries"] > 0 for row in rows)
        assert all(row["fewest_hits"] == row["hits_to_find"] for row in rows)
    assert [row["hits_to_find"] for row, _ in ours.rows.values()] == [10, 10, 8, 1]
    assert ours.measurements["index"]["vectors"] == 600
    assert ours.measurements["items_loaded_per_s"] > 0
    assert ours.measurements["lists_built_s"] is None
    assert ours.measurements["own_ms"] > 0
    assert [row["clients"] for row in faiss.rows["vector"]] == [1, 32]


def test_image_queries_go_through_a_model_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "lite")
    options = ["--clients", "1", "4", "--seconds", "0.3", "--sides", "images", "--runtimes", "onnx"]
    (arm,) = run_arms(read_arguments([*options, "--models", str(tmp_path)]))

    assert arm.name == "lite, onnx"
    assert [row["clients"] for row in arm.rows["image"]] == [1, 4]
    assert all(row["failed"] == 0 and row["queries"] > 0 for row in arm.rows["image"])
    assert arm.measurements["encode_p50_ms"] > 0
