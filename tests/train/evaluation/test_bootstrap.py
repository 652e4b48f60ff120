"""Group bootstrap, paired differences and Holm's correction: by hand, with no difference, and with a real one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_train.evaluation.bootstrap import Difference, GroupBootstrap, holm
from dermnote_train.evaluation.metrics import balanced_accuracy

N, SEEDS = 300, 3


def predictions(*, accuracy: float, seed: int, like: np.ndarray | None = None, change: float = 1.0) -> np.ndarray:
    """Predictions [SEEDS, N], a share `accuracy` correct; with `like`, all but a share `change` are taken from it."""
    rng = np.random.default_rng(seed)
    own = np.where(rng.random((SEEDS, N)) < accuracy, LABELS, (LABELS + rng.integers(1, 3, (SEEDS, N))) % 3)
    return own if like is None else np.where(rng.random((SEEDS, N)) < change, own, like)


LABELS = np.arange(N) % 3
GROUPS = [f"g{number // 2}" for number in range(N)]


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, groups: list[str] = GROUPS, resamples: int, seed: int = 0
) -> Difference:
    """The difference in balanced accuracy: correctness, averaged by class."""
    resampling = GroupBootstrap(groups, strata=LABELS, resamples=resamples, seed=seed)
    return resampling.difference((first == LABELS).astype(float), (second == LABELS).astype(float))


def test_a_better_arm_is_detected() -> None:
    result = paired_difference(
        predictions(accuracy=0.8, seed=1), predictions(accuracy=0.6, seed=2), groups=GROUPS, resamples=300
    )
    assert result.interval.low > 0.1
    assert result.interval.low < result.interval.value < result.interval.high < 0.3
    assert result.p_value == pytest.approx(2 / 301)


def test_the_difference_is_the_mean_over_seeds_and_antisymmetric() -> None:
    first, second = predictions(accuracy=0.7, seed=3), predictions(accuracy=0.6, seed=4)
    forth = paired_difference(first, second, groups=GROUPS, resamples=50)
    back = paired_difference(second, first, groups=GROUPS, resamples=50)
    expected = np.mean([np.mean(first[s] == LABELS) - np.mean(second[s] == LABELS) for s in range(SEEDS)])
    assert forth.interval.value == pytest.approx(expected)
    assert (back.interval.value, back.interval.low) == pytest.approx((-forth.interval.value, -forth.interval.high))
    assert back.p_value == forth.p_value


def test_common_variation_cancels_out() -> None:
    """The same images are hard for both: the interval of the difference is far narrower than either arm's."""
    first = predictions(accuracy=0.6, seed=5)
    result = paired_difference(
        first,
        predictions(accuracy=0.6, seed=6, like=first, change=0.02),
        groups=GROUPS,
        resamples=300,
    )
    assert result.interval.high - result.interval.low < 0.03


def test_equal_arms_have_no_difference() -> None:
    first = predictions(accuracy=0.6, seed=7)
    result = paired_difference(first, first, groups=GROUPS, resamples=50)
    assert (result.interval.value, result.interval.low, result.interval.high) == (0, 0, 0)
    assert result.p_value == 1


def test_false_positives_are_rare() -> None:
    result = [
        paired_difference(
            predictions(accuracy=0.6, seed=100 + number),
            predictions(accuracy=0.6, seed=200 + number),
            groups=GROUPS,
            resamples=200,
            seed=number,
        ).p_value
        for number in range(60)
    ]
    assert np.mean(np.array(result) < 0.05) <= 0.1


def test_whole_groups_are_predictions() -> None:
    """One patient has all the gain: their images are resampled together, so the gain is uncertain."""
    first, second = np.tile(LABELS, (SEEDS, 1)), np.tile(LABELS, (SEEDS, 1))
    second[:, :60] = (second[:, :60] + 1) % 3
    alone = paired_difference(first, second, groups=["one"] * 60 + GROUPS[60:], resamples=300)
    each = paired_difference(first, second, groups=[f"g{number}" for number in range(N)], resamples=300)
    assert alone.interval.low <= 0.05
    assert each.interval.low > 0.1


def test_unpaired_values_are_rejected() -> None:
    first = np.ones((SEEDS, N))
    resampling = GroupBootstrap(GROUPS, resamples=10)
    with pytest.raises(ValueError, match="are not paired for"):
        resampling.difference(first, first[:2])
    with pytest.raises(ValueError, match="different images"):
        resampling.difference(first, np.where(np.arange(N) == 3, np.nan, first))


@given(st.integers(0, 2**16))
def test_correctness_by_class_is_balanced_accuracy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 4, 40), rng.integers(0, 4, (2, 40))
    resampling = GroupBootstrap([str(row) for row in range(40)], strata=labels)
    expected = np.mean([balanced_accuracy(labels, one) for one in predicted])
    assert resampling.point((predicted == labels).astype(float)) == pytest.approx(expected)


def test_each_seed_counts_only_the_images_it_tested() -> None:
    values = np.array([[1.0, np.nan, 0.0, np.nan], [np.nan, 1.0, np.nan, 1.0]])
    resampling = GroupBootstrap(["a", "a", "b", "b"], resamples=400)
    result = resampling.interval(values)
    assert result.value == pytest.approx((0.5 + 1.0) / 2)
    assert (result.low, result.high) == (0.0, 1.0)


def test_the_interval_agrees_with_explicit_resamples_of_rows() -> None:
    """Multinomial weights against explicit resamples of rows, for one seed."""
    values = (predictions(accuracy=0.7, seed=9)[:1] == LABELS).astype(float)
    ours = GroupBootstrap(GROUPS, resamples=2000).interval(values)
    rows = GroupBootstrap(GROUPS, resamples=2000, seed=5).statistic(lambda rows: float(values[0][rows].mean()))
    assert (ours.low, ours.high) == pytest.approx((rows.low, rows.high), abs=0.01)
    assert ours.value == pytest.approx(rows.value)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_is_at_most_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, p * len(p_values)) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= -1e-12)
