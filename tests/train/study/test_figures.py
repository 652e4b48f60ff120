"""A study's figures from cells made by hand: each figure counted out, pairs over shared seeds, strict pools."""

from pathlib import Path

import numpy as np
import pytest

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.study.analysis.figures import study_figures
from dermnote_train.study.analysis.results import Place, StudyFigures
from dermnote_train.study.cells.outputs import (
    CellFacts,
    CellOutputs,
    Choice,
    PoolOutputs,
    read_cell,
    read_facts,
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
    """Predictions that are right where `right` says so; embeddings of the picture are its class's axis."""
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


def figures(cells: list[CellOutputs], *, tried: list[CellOutputs] | None = None) -> StudyFigures:
    return study_figures(cells, pools={"home": HOME}, resamples=200, tried=tried or [])


def rows_of(seed: int) -> np.ndarray:
    """Each seed tests 30 of the 60 images, whole groups."""
    return np.arange(N)[(np.arange(N) // 2) % 2 == seed % 2] if seed < 2 else np.arange(N)


ALL = np.arange(N)
PLACE = Place("frozen", "home", "home")


def test_balanced_accuracy_is_counted_out() -> None:
    right = np.ones(N, dtype=bool)
    right[np.flatnonzero(LABELS == 1)[:15]] = False  # half of one class
    (found,) = figures([cell("image", 0, pool(right, ALL))]).classified
    assert found.balanced_accuracy.value == pytest.approx(0.75)
    assert found.balanced_accuracy.low < 0.75 < found.balanced_accuracy.high
    assert found.confusion == ((30, 0), (15, 15))
    assert found.f1_micro == pytest.approx(45 / 60)
    assert found.chance == 0.5
    assert (found.seeds, found.n) == (1, 60)


def test_arms_are_paired_over_the_seeds_that_both_have() -> None:
    worse = np.ones(N, dtype=bool)
    worse[::3] = False
    cells = [
        cell("image", 0, pool(worse, ALL)),
        cell("G", 0, pool(np.ones(N, dtype=bool), ALL)),
        cell("G", 1, pool(np.zeros(N, dtype=bool), ALL)),
    ]
    (found,) = figures(cells).compared
    assert (found.arm, found.against, found.family) == ("G", "image", "pictures against pictures alone")
    assert found.difference.interval.value == pytest.approx(1 / 3)
    assert found.difference.interval.low > 0.1
    assert found.adjusted == found.difference.p_value


def test_holm_is_over_the_arms_of_a_question() -> None:
    worse = np.ones(N, dtype=bool)
    worse[::3] = False
    cells = [
        cell("image", 0, pool(worse, ALL)),
        *(cell(arm, 0, pool(~np.zeros(N, bool), ALL)) for arm in ("M", "G", "P1")),
    ]
    found = figures(cells).compared
    assert len(found) == 3
    assert all(one.adjusted == pytest.approx(min(1.0, 3 * one.difference.p_value)) for one in found)


def test_a_seed_counts_the_images_that_it_tested() -> None:
    cells = [cell("image", seed, pool(np.full(30, seed == 0), rows_of(seed))) for seed in (0, 1)]
    (found,) = figures(cells).classified
    assert found.balanced_accuracy.value == pytest.approx(0.5)
    assert found.n == 60


def test_retrieval_leaves_the_own_group_out_and_tells_what_reads_the_class() -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    wrong = np.eye(2, dtype=np.float32)[1 - LABELS]
    found = figures([cell("G", 0, pool(np.ones(N, bool), ALL, note=note, own=wrong))]).retrieved
    by = {(one.direction, one.notes): one for one in found}
    seen = by["image to note", "blinded"]
    assert seen.mean_average_precision.value == pytest.approx(1.0)
    assert not seen.reads_class
    assert seen.pool_size == N
    read = by["image to note", "own"]
    assert read.reads_class
    assert read.mean_average_precision.value < 0.5
    assert seen.chance_map == pytest.approx(0.48, abs=0.05)
    assert seen.median_rank == pytest.approx(15.5), "thirty notes tie with the own one"


def test_retrieval_is_held_against_random_notes() -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    cells = [
        cell("random", 0, pool(np.ones(N, bool), ALL, note=note[::-1].copy(), own=note)),
        cell("G", 0, pool(np.ones(N, bool), ALL, note=note, own=note)),
    ]
    found = [one for one in figures(cells).compared if one.against == "random"]
    assert [(one.arm, one.measure) for one in found] == [("G", "mAP")]


def test_retrieval_is_held_against_the_same_rankings_for_classes_at_random() -> None:
    """Alike notes lie together, so that rankings that know no class are better than a random order by luck, or worse.

    Here every picture gets the notes of class 0 first.
    """
    note = np.eye(2, dtype=np.float32)[LABELS]
    knows = pool(np.ones(N, bool), ALL, note=note)
    blind = PoolOutputs(knows.image_ids, knows.logits, np.tile(np.float32([1.0, 0.1]), (N, 1)), note)
    found = figures([cell("G", 0, knows), cell("G-blinded", 0, blind)])
    against = {one.arm: one.difference for one in found.compared if one.against == "classes at random"}
    assert against["G"].interval.low > 0.2
    assert against["G-blinded"].interval.value == pytest.approx(0, abs=0.02)
    (figure,) = (one for one in found.retrieved if (one.arm, one.direction) == ("G-blinded", "image to note"))
    assert figure.classless_map == pytest.approx(figure.mean_average_precision.value, abs=0.02)
    assert figure.classless_map > figure.chance_map + 0.1


def test_subgroups_have_their_own_figures() -> None:
    found = {
        (one.field, one.value): one for one in figures([cell("image", 0, pool(np.ones(N, bool), ALL))]).in_subgroups
    }
    assert found["sex", "male"].n == N
    assert found["sex", "male"].balanced_accuracy == 1.0
    assert ("age", "under 30") not in found


def test_a_cell_comes_back_as_it_was_written(tmp_path: Path) -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    made = cell("G", 0, pool(np.ones(N, bool), ALL, note=note))
    write_cell(tmp_path / "cell.safetensors", made)
    found = read_cell(tmp_path / "cell.safetensors")
    assert found.facts == made.facts
    assert found.pools["home"].own_text is None
    np.testing.assert_array_equal(found.pools["home"].logits["both"], made.pools["home"].logits["both"])


def test_a_torn_cell_is_no_cell(tmp_path: Path) -> None:
    (tmp_path / "cell.safetensors").write_bytes(b"torn")
    assert read_facts(tmp_path / "cell.safetensors") is None
    assert read_facts(tmp_path / "none.safetensors") is None
    with pytest.raises(UserError, match="not a whole cell"):
        read_cell(tmp_path / "cell.safetensors")


def test_mode_paper_searches_the_training_notes_and_the_own_one_too() -> None:
    """Half of the pool are training notes, all of the wrong class for half of the queries."""
    note = np.eye(2, dtype=np.float32)[LABELS]
    home = pool(np.ones(N, bool), ALL, note=note, own=note)
    strict, paper = cell("G", 0, home), cell("G", 0, home)
    paper = CellOutputs(paper.facts, {"home": home, "train": pool(np.ones(N, bool), ALL, note=1 - note, own=1 - note)})
    (seen,) = (one for one in figures([strict]).retrieved if (one.direction, one.notes) == ("image to note", "blinded"))
    (mixed,) = (one for one in figures([paper]).retrieved if (one.direction, one.notes) == ("image to note", "blinded"))
    assert seen.mean_average_precision.value == pytest.approx(1.0)
    assert mixed.mean_average_precision.value < 0.8
    assert mixed.recall_at == seen.recall_at, "the own partner is looked for among held-out pictures"


def test_retrieval_is_compared_over_the_seeds_that_both_have() -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    right = np.ones(N, bool)
    cells = [cell("G", seed, pool(right, ALL, note=note, own=note)) for seed in (0, 1)]
    control = cell("random", 1, pool(right, ALL, note=note[::-1].copy(), own=note))
    (found,) = (one for one in figures([*cells, control]).compared if one.against == "random")
    assert found.difference.interval.value > 0


def test_arms_without_a_common_seed_are_not_compared() -> None:
    note = np.eye(2, dtype=np.float32)[LABELS]
    outputs = pool(np.ones(N, bool), ALL, note=note, own=note)
    cells = [cell("image", 0, outputs), cell("random", 0, outputs), cell("G", 1, outputs)]
    pairs = {(one.arm, one.against) for one in figures(cells).compared}
    assert ("random", "image") in pairs
    assert not pairs & {("G", "image"), ("G", "random")}


def test_a_trial_is_held_against_the_grid_as_it_is_on_validation_data_alone() -> None:
    """Right on every picture of the test part would show, were it looked at."""
    half, most = np.arange(N) % 4 < 2, np.arange(N) % 4 < 3
    every = pool(np.ones(N, bool), ALL)
    base = [cell("image", seed, every, validation=pool(half, ALL)) for seed in (0, 1)]
    changed = [
        CellOutputs(one.facts, {"val": one.pools["val"]})
        for one in (cell("image", 0, every, grid="trials/larger", validation=pool(most, ALL)),)
    ]
    found = figures(base, tried=changed)
    (one,) = found.tried
    assert (one.trial, one.route, one.arm, one.input, one.seeds) == ("larger", "home", "image", "image", 1)
    assert one.balanced_accuracy == pytest.approx(0.75)
    assert one.difference.interval.value == pytest.approx(0.25)
    assert one.difference.interval.low > 0
    assert len(found.classified) == 1, "a trial opens nothing"
