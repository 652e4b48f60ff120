"""Paired differences and Holm's correction: by hand, against no difference, and against a real one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_train.evaluation.bootstrap import Difference, Resampling, holm
from dermnote_train.evaluation.metrics import balanced_accuracy, bootstrap

N, SEEDS = 300, 3


def drawn(*, right: float, seed: int, like: np.ndarray | None = None, change: float = 1.0) -> np.ndarray:
    """Predictions [SEEDS, N] of which `right` are right; with `like`, only a share `change` is not taken from there."""
    rng = np.random.default_rng(seed)
    own = np.where(rng.random((SEEDS, N)) < right, LABELS, (LABELS + rng.integers(1, 3, (SEEDS, N))) % 3)
    return own if like is None else np.where(rng.random((SEEDS, N)) < change, own, like)


LABELS = np.arange(N) % 3
GROUPS = [f"g{number // 2}" for number in range(N)]


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, groups: list[str] = GROUPS, resamples: int, seed: int = 0
) -> Difference:
    """Of balanced accuracy: right or wrong, by class."""
    drawing = Resampling(groups, strata=LABELS, resamples=resamples, seed=seed)
    return drawing.difference((first == LABELS).astype(float), (second == LABELS).astype(float))


def test_an_arm_that_is_better_is_found_better() -> None:
    found = paired_difference(drawn(right=0.8, seed=1), drawn(right=0.6, seed=2), groups=GROUPS, resamples=300)
    assert found.interval.low > 0.1
    assert found.interval.low < found.interval.value < found.interval.high < 0.3
    assert found.p_value == pytest.approx(2 / 301)


def test_the_difference_is_the_mean_over_seeds_and_turns_with_the_arms() -> None:
    first, second = drawn(right=0.7, seed=3), drawn(right=0.6, seed=4)
    forth = paired_difference(first, second, groups=GROUPS, resamples=50)
    back = paired_difference(second, first, groups=GROUPS, resamples=50)
    expected = np.mean([np.mean(first[s] == LABELS) - np.mean(second[s] == LABELS) for s in range(SEEDS)])
    assert forth.interval.value == pytest.approx(expected)
    assert (back.interval.value, back.interval.low) == pytest.approx((-forth.interval.value, -forth.interval.high))
    assert back.p_value == forth.p_value


def test_what_both_arms_share_cancels_out() -> None:
    """The same images are hard for both: the interval of the difference is far narrower than that of either."""
    first = drawn(right=0.6, seed=5)
    found = paired_difference(
        first,
        drawn(right=0.6, seed=6, like=first, change=0.02),
        groups=GROUPS,
        resamples=300,
    )
    assert found.interval.high - found.interval.low < 0.03


def test_equal_arms_differ_by_nothing() -> None:
    first = drawn(right=0.6, seed=7)
    found = paired_difference(first, first, groups=GROUPS, resamples=50)
    assert (found.interval.value, found.interval.low, found.interval.high) == (0, 0, 0)
    assert found.p_value == 1


def test_no_difference_is_found_one_seldom() -> None:
    found = [
        paired_difference(
            drawn(right=0.6, seed=100 + number),
            drawn(right=0.6, seed=200 + number),
            groups=GROUPS,
            resamples=200,
            seed=number,
        ).p_value
        for number in range(60)
    ]
    assert np.mean(np.array(found) < 0.05) <= 0.1


def test_whole_groups_are_drawn() -> None:
    """One patient with all the gain: his images come and go together, so nothing is certain."""
    first, second = np.tile(LABELS, (SEEDS, 1)), np.tile(LABELS, (SEEDS, 1))
    second[:, :60] = (second[:, :60] + 1) % 3
    alone = paired_difference(first, second, groups=["one"] * 60 + GROUPS[60:], resamples=300)
    each = paired_difference(first, second, groups=[f"g{number}" for number in range(N)], resamples=300)
    assert alone.interval.low <= 0.05
    assert each.interval.low > 0.1


def test_values_that_do_not_pair_up_are_refused() -> None:
    first = np.ones((SEEDS, N))
    drawing = Resampling(GROUPS, resamples=10)
    with pytest.raises(ValueError, match="do not pair up"):
        drawing.difference(first, first[:2])
    with pytest.raises(ValueError, match="different images"):
        drawing.difference(first, np.where(np.arange(N) == 3, np.nan, first))


@given(st.integers(0, 2**16))
def test_right_or_wrong_by_class_is_balanced_accuracy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 4, 40), rng.integers(0, 4, (2, 40))
    drawing = Resampling([str(row) for row in range(40)], strata=labels)
    expected = np.mean([balanced_accuracy(labels, one) for one in predicted])
    assert drawing.figure((predicted == labels).astype(float)) == pytest.approx(expected)


def test_each_seed_counts_the_images_that_it_tested() -> None:
    values = np.array([[1.0, np.nan, 0.0, np.nan], [np.nan, 1.0, np.nan, 1.0]])
    drawing = Resampling(["a", "a", "b", "b"], resamples=400)
    found = drawing.interval(values)
    assert found.value == pytest.approx((0.5 + 1.0) / 2)
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_interval_agrees_with_drawing_groups_one_by_one() -> None:
    """Against the plain bootstrap of metrics.py, one seed."""
    values = (drawn(right=0.7, seed=9)[:1] == LABELS).astype(float)
    ours = Resampling(GROUPS, resamples=2000).interval(values)
    low, high = bootstrap(lambda rows: float(values[0][rows].mean()), GROUPS, resamples=2000, seed=5)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.01)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_each_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, p * len(p_values)) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= -1e-12)
