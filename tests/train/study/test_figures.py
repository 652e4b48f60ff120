"""A study's results from handmade cells: metrics counted by hand, pairing over common seeds, strict pools."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.study.analysis.figures import compute_results
from dermnote_train.study.analysis.results import StudyResults
from dermnote_train.study.cells.outputs import (
    CellFacts,
    CellOutputs,
    Choice,
    PoolOutputs,
    read_cell,
    reusable_facts,
    write_cell,
)

CLASSES = ("NEV", "MEL")
N = 60
HOME = tuple(
    Record(
        f"img-{row}",
        Path(f"{row}.jpg"),
        f"g{row // 2}",
        CLASSES[row // 2 % 2],
        LesionMetadata(age=30 + row % 40, sex="male"),
    )
    for row in range(N)
)
LABELS = np.array([CLASSES.index(record.label) for record in HOME])


def pool(
    right: np.ndarray, rows: np.ndarray, *, note: np.ndarray | None = None, own: np.ndarray | None = None
) -> PoolOutputs:
    """Predictions that are correct where `right` is true; an image's embedding is the axis of its class."""
    predicted = np.where(right, LABELS[rows], 1 - LABELS[rows])
    logits = np.eye(2, dtype=np.float32)[predicted] * 4
    image = np.eye(2, dtype=np.float32)[LABELS[rows]]
    given = {"image": logits} | ({} if note is None else {"note": logits, "both": logits})
    return PoolOutputs(tuple(HOME[row].image_id for row in rows), given, image, note, own)  # type: ignore[arg-type]


def cell(
    arm: str, seed: int, outputs: PoolOutputs, *, grid: str = "frozen", validation: PoolOutputs | None = None
) -> CellOutputs:
    facts = CellFacts(
        grid=grid,
        route="home",
        arm=arm,
        seed=seed,
        digest="d",
        classes=CLASSES,
        pools={"home": outputs.image_ids},
        choices={"image": Choice(candidate=0, epoch=1, losses=(0.5,))},
        trained_on=10,
        seconds=1.0,
        versions={"torch": "2"},
    )
    return CellOutputs(facts, {"home": outputs} | ({} if validation is None else {"val": validation}))


def results(cells: list[CellOutputs], *, ablations: list[CellOutputs] | None = None) -> StudyResults:
    return compute_results(cells, pools={"home": HOME}, resamples=200, ablations=ablations or [])


def rows_of(seed: int) -> np.ndarray:
    """Each seed tests 30 of the 60 images, whole groups."""
    return np.arange(N)[(np.arange(N) // 2) % 2 == seed % 2] if seed < 2 else np.arange(N)


ALL = np.arange(N)


def test_balanced_accuracy_by_hand() -> None:
    right = np.ones(N, dtype=bool)
    right[np.flatnonzero(LABELS == 1)[:15]] = False  # half of one class
    (result,) = results([cell("image", 0, pool(right, ALL))]).classification
    assert result.balanced_accuracy.value == pytest.approx(0.75)
    assert result.balanced_accuracy.low < 0.75 < result.balanced_accuracy.high
    assert result.confusion == ((30, 0), (15, 15))
    assert result.f1_micro == pytest.approx(45 / 60)
    assert result.chance == 0.5
    assert (result.seeds, result.n) == (1, 60)


def test_arms_are_paired_over_common_seeds() -> None:
    worse = np.ones(N, dtype=bool)
    worse[::3] = False
    cells = [
        cell("image", 0, pool(worse, ALL)),
        cell("G", 0, pool(np.ones(N, dtype=bool), ALL)),
        cell("G", 1, pool(np.zeros(N, dtype=bool), ALL)),
    ]
    (result,) = results(cells).comparisons
    assert (result.arm, result.against, result.family) == ("G", "image", "pictures against pictures alone")
    assert result.difference.interval.value == pytest.approx(1 / 3)
    assert result.difference.interval.low > 0.1
    assert result.adjusted == result.difference.p_value


def test_holm_corrects_over_the_arms_of_a_question() -> None:
    worse = np.ones(N, dtype=bool)
    worse[::3] = False
    cells = [
        cell("image", 0, pool(worse, ALL)),
        *(cell(arm, 0, pool(~np.zeros(N, bool), ALL)) for arm in ("M", "G", "P1")),
    ]
    result = results(cells).comparisons
    assert len(result) == 3
    assert all(one.adjusted == pytest.approx(min(1.0, 3 * one.difference.p_value)) for one in result)


def test_a_seed_counts_only_the_images_it_tested() -> None:
    cells = [cell("image", seed, pool(np.full(30, seed == 0), rows_of(seed))) for seed in (0, 1)]
    (result,) = results(cells).classification
    assert result.balanced_accuracy.value == pytest.approx(0.5)
    assert result.n == 60


def test_retrieval_excludes_the_own_group_and_marks_notes_that_name_the_class() -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    wrong = np.eye(2, dtype=np.float32)[1 - LABELS]
    result = results([cell("G", 0, pool(np.ones(N, bool), ALL, note=note, own=wrong))]).retrieval
    by = {(one.direction, one.notes): one for one in result}
    seen = by["image to note", "blinded"]
    assert seen.mean_average_precision.value == pytest.approx(1.0)
    assert not seen.reads_class
    assert seen.pool_size == N
    read = by["image to note", "own"]
    assert read.reads_class
    assert read.mean_average_precision.value < 0.5
    assert seen.chance_map == pytest.approx(0.48, abs=0.05)
    assert seen.median_rank == pytest.approx(15.5), "thirty notes tie with the partner"


def test_retrieval_is_compared_with_random_notes() -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    cells = [
        cell("random", 0, pool(np.ones(N, bool), ALL, note=note[::-1].copy(), own=note)),
        cell("G", 0, pool(np.ones(N, bool), ALL, note=note, own=note)),
    ]
    result = [one for one in results(cells).comparisons if one.against == "random"]
    assert [(one.arm, one.measure) for one in result] == [("G", "mAP")]


def test_retrieval_is_compared_with_the_same_rankings_for_random_classes() -> None:
    """Similar notes are ranked next to each other, so a ranking without class knowledge may beat a random order.

    Here every image gets the notes of class 0 first.
    """
    note = np.eye(2, dtype=np.float32)[LABELS]
    knows = pool(np.ones(N, bool), ALL, note=note)
    blind = PoolOutputs(knows.image_ids, knows.logits, np.tile(np.float32([1.0, 0.1]), (N, 1)), note)
    result = results([cell("G", 0, knows), cell("G-blinded", 0, blind)])
    against = {one.arm: one.difference for one in result.comparisons if one.against == "classes at random"}
    assert against["G"].interval.low > 0.2
    assert against["G-blinded"].interval.value == pytest.approx(0, abs=0.02)
    (figure,) = (one for one in result.retrieval if (one.arm, one.direction) == ("G-blinded", "image to note"))
    assert figure.classless_map == pytest.approx(figure.mean_average_precision.value, abs=0.02)
    assert figure.classless_map > figure.chance_map + 0.1


def test_subgroups_have_their_own_results() -> None:
    result = {(one.field, one.value): one for one in results([cell("image", 0, pool(np.ones(N, bool), ALL))]).subgroups}
    assert result["sex", "male"].n == N
    assert result["sex", "male"].balanced_accuracy == 1.0
    assert ("age", "under 30") not in result


def test_a_cell_survives_a_round_trip(tmp_path: Path) -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    saved = cell("G", 0, pool(np.ones(N, bool), ALL, note=note))
    write_cell(tmp_path / "cell.safetensors", saved)
    result = read_cell(tmp_path / "cell.safetensors")
    assert result.facts == saved.facts
    assert result.pools["home"].own_text is None
    np.testing.assert_array_equal(result.pools["home"].logits["both"], saved.pools["home"].logits["both"])


def test_a_cell_is_reused_only_if_its_inputs_are_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cell.safetensors"
    assert reusable_facts(path, digest="d") is None
    saved = cell("G", 0, pool(np.ones(N, bool), ALL))
    write_cell(path, saved)
    assert reusable_facts(path, digest="d") == saved.facts
    assert reusable_facts(path, digest="other inputs") is None
    assert not caplog.records, "a missing or outdated cell is not an error"


@pytest.mark.parametrize("damage", ["torn", "truncated", "foreign"])
def test_a_damaged_cell_is_recomputed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "cell.safetensors"
    write_cell(path, cell("G", 0, pool(np.ones(N, bool), ALL)))
    if damage == "foreign":
        save_file({"x": np.zeros(1)}, path, metadata={"cell": "{}"})
    else:
        path.write_bytes(b"torn" if damage == "torn" else path.read_bytes()[:-10])
    assert reusable_facts(path, digest="d") is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(path) in record.getMessage()
    assert "is damaged (" in record.getMessage()
    with pytest.raises(UserError, match="unreadable cell") as raised:
        read_cell(path)
    assert "\n" not in str(raised.value)


def test_mode_paper_also_searches_the_training_notes_and_the_own_note() -> None:
    """Half of the pool are training notes, of the wrong class for half of the queries."""
    note = np.eye(2, dtype=np.float32)[LABELS]
    home = pool(np.ones(N, bool), ALL, note=note, own=note)
    strict, paper = cell("G", 0, home), cell("G", 0, home)
    paper = CellOutputs(paper.facts, {"home": home, "train": pool(np.ones(N, bool), ALL, note=1 - note, own=1 - note)})
    (seen,) = (one for one in results([strict]).retrieval if (one.direction, one.notes) == ("image to note", "blinded"))
    (mixed,) = (one for one in results([paper]).retrieval if (one.direction, one.notes) == ("image to note", "blinded"))
    assert seen.mean_average_precision.value == pytest.approx(1.0)
    assert mixed.mean_average_precision.value < 0.8
    assert mixed.recall_at == seen.recall_at, "the partner is searched among held-out images"


def test_retrieval_is_compared_over_common_seeds() -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    right = np.ones(N, bool)
    cells = [cell("G", seed, pool(right, ALL, note=note, own=note)) for seed in (0, 1)]
    control = cell("random", 1, pool(right, ALL, note=note[::-1].copy(), own=note))
    (result,) = (one for one in results([*cells, control]).comparisons if one.against == "random")
    assert result.difference.interval.value > 0


def test_arms_without_common_seeds_are_not_compared() -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    outputs = pool(np.ones(N, bool), ALL, note=note, own=note)
    cells = [cell("image", 0, outputs), cell("random", 0, outputs), cell("G", 1, outputs)]
    pairs = {(one.arm, one.against) for one in results(cells).comparisons}
    assert ("random", "image") in pairs
    assert not pairs & {("G", "image"), ("G", "random")}


def test_an_ablation_is_compared_with_the_unchanged_grid_on_validation_data_only() -> None:
    """Every prediction on the test part is correct, which would show if the test part were used."""
    half, most = np.arange(N) % 4 < 2, np.arange(N) % 4 < 3
    every = pool(np.ones(N, bool), ALL)
    base = [cell("image", seed, every, validation=pool(half, ALL)) for seed in (0, 1)]
    changed = [
        CellOutputs(one.facts, {"val": one.pools["val"]})
        for one in (cell("image", 0, every, grid="trials/larger", validation=pool(most, ALL)),)
    ]
    result = results(base, ablations=changed)
    (one,) = result.ablations
    assert (one.ablation, one.route, one.arm, one.input, one.seeds) == ("larger", "home", "image", "image", 1)
    assert one.balanced_accuracy == pytest.approx(0.75)
    assert one.difference.interval.value == pytest.approx(0.25)
    assert one.difference.interval.low > 0
    assert len(result.classification) == 1, "an ablation evaluates no test pool"
