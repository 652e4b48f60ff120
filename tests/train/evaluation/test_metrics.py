"""Metrics against scikit-learn, torchmetrics, ranx, brute force, and cases counted by hand."""

import itertools

import numpy as np
import pytest
import ranx
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_precision

from dermnote_train.evaluation import metrics
from dermnote_train.evaluation.bootstrap import GroupBootstrap
from dermnote_train.evaluation.results import Interval

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def _nothing_excluded(queries: int, pool: int) -> np.ndarray:
    return np.zeros((queries, pool), dtype=bool)


@given(LABELS)
def test_balanced_accuracy_and_f1_agree_with_sklearn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    present = np.unique(labels)
    expected = np.mean([np.mean(predicted[labels == name] == name) for name in present])
    assert metrics.balanced_accuracy(labels, predicted) == pytest.approx(expected)
    if set(predicted) <= set(labels) and len(present) > 1:
        assert metrics.balanced_accuracy(labels, predicted) == pytest.approx(balanced_accuracy_score(labels, predicted))
    sklearns = f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert metrics.f1_macro(labels, predicted) == pytest.approx(sklearns)


PROBABILITIES = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any)),
    min_size=2,
    max_size=40,
)


def _columns(drawn: list[tuple[int, list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    labels, weights = (np.array(column) for column in zip(*drawn, strict=True))
    return labels, weights / weights.sum(axis=1, keepdims=True)


@given(PROBABILITIES)
def test_auroc_agrees_with_sklearn_for_ties_and_missing_classes(drawn: list[tuple[int, list[int]]]) -> None:
    labels, probabilities = _columns(drawn)
    result = metrics.auroc_macro(labels, probabilities)
    present = np.unique(labels)
    if len(present) < 2:
        assert np.isnan(result)
        return
    expected = np.mean([roc_auc_score(labels == name, probabilities[:, name]) for name in present])
    assert result == pytest.approx(expected)


def test_auroc_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    # The first column orders three of the four pairs of a 0 and a 1 correctly.
    assert metrics.auroc_macro(np.array([0, 0, 1, 1]), probabilities) == pytest.approx(0.75)


@given(PROBABILITIES)
def test_the_calibration_error_agrees_with_torchmetrics(drawn: list[tuple[int, list[int]]]) -> None:
    labels, probabilities = _columns(drawn)
    probabilities = probabilities * 0.999 + 0.00025  # away from the bin limits, where rounding decides
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities).double(), torch.from_numpy(labels), num_classes=4, n_bins=15, norm="l1"
    )
    assert metrics.calibration_error(labels, probabilities) == pytest.approx(theirs.item(), abs=1e-6)


def test_the_calibration_error_by_hand() -> None:
    # Two bins: at .9 one of two is correct (|.5 - .9|), at .6 both are (|1 - .6|).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert metrics.calibration_error(np.array([0, 1, 1, 1]), probabilities) == pytest.approx(0.4)
    assert metrics.calibration_error(np.array([0, 1]), np.array([[1.0, 0.0], [0.0, 1.0]])) == 0


def test_confusion_counts_true_by_predicted() -> None:
    counts = metrics.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), classes=4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_class_level_agrees_with_sklearn_and_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    # Positive scores only: torchmetrics treats items with scores of 0 or less as not retrieved.
    scores, labels, pool = rng.random((6, 30)), rng.integers(0, 3, 6), rng.integers(0, 3, 30)
    result = metrics.class_level(
        scores, query_labels=labels, pool_labels=pool, excluded=_nothing_excluded(6, 30), ks=(1, 5, 10)
    )
    for query in range(6):
        relevant = pool == labels[query]
        ranked = torch.from_numpy(scores[query]), torch.from_numpy(relevant)
        assert result.average_precision[query] == pytest.approx(average_precision_score(relevant, scores[query]))
        assert result.average_precision[query] == pytest.approx(retrieval_average_precision(*ranked).item(), rel=1e-5)
        for k in (1, 5, 10):
            assert result.precision_at[k][query] == pytest.approx(retrieval_precision(*ranked, top_k=k).item())


def test_excluded_items_are_not_ranked() -> None:
    scores = np.array([[0.9, 0.8, 0.1, 0.7]])
    excluded = np.array([[True, False, False, False]])
    result = metrics.class_level(
        scores, query_labels=np.array([1]), pool_labels=np.array([1, 0, 1, 0]), excluded=excluded, ks=(1, 3)
    )
    assert result.precision_at[1].tolist() == [0]
    assert result.precision_at[3].tolist() == [pytest.approx(1 / 3)]
    assert result.average_precision.tolist() == [pytest.approx(1 / 3)]
    assert result.chance_precision.tolist() == [pytest.approx(1 / 3)]


def test_a_query_without_relevant_items_is_not_counted() -> None:
    result = metrics.class_level(
        np.array([[0.5, 0.4], [0.5, 0.4]]),
        query_labels=np.array([0, 7]),
        pool_labels=np.array([0, 1]),
        excluded=_nothing_excluded(2, 2),
        ks=(1,),
    )
    assert result.precision_at[1][0] == 1
    assert np.isnan(result.precision_at[1][1])
    assert np.isnan(result.average_precision[1])


def test_precision_at_more_than_the_pool_is_over_the_pool() -> None:
    result = metrics.class_level(
        np.array([[0.5, 0.4]]),
        query_labels=np.array([0]),
        pool_labels=np.array([0, 1]),
        excluded=_nothing_excluded(1, 2),
        ks=(10,),
    )
    assert result.precision_at[10].tolist() == [0.5]


def test_the_row_order_does_not_break_ties() -> None:
    pool = np.repeat([0, 1], 50)
    result = metrics.class_level(
        np.zeros((200, 100)),
        query_labels=np.zeros(200, dtype=int),
        pool_labels=pool,
        excluded=_nothing_excluded(200, 100),
        ks=(1,),
    )
    assert 0.35 < result.precision_at[1].mean() < 0.65


def test_chance_is_the_mean_over_every_ranking() -> None:
    for relevant, pool in ((1, 1), (1, 4), (2, 5), (3, 3)):
        values = []
        for positions in itertools.combinations(range(1, pool + 1), relevant):
            values.append(sum((hit + 1) / position for hit, position in enumerate(positions)) / relevant)
        assert metrics.chance_ap(relevant, pool) == pytest.approx(np.mean(values))
    assert np.isnan(metrics.chance_ap(0, 5))


def test_instance_level_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.1], [0.3, 0.2, 0.1]])
    result = metrics.instance_level(scores, ks=(1, 2))
    assert result.rank.tolist() == [1, 2, 3]
    assert result.recall_at[1].tolist() == [1, 0, 0]
    assert result.recall_at[2].tolist() == [1, 1, 0]


def test_equal_notes_share_the_recall_and_get_the_middle_rank() -> None:
    result = metrics.instance_level(np.full((4, 4), 0.3), ks=(1, 2, 4))
    assert result.recall_at[1].tolist() == [0.25] * 4
    assert result.recall_at[2].tolist() == [0.5] * 4
    assert result.recall_at[4].tolist() == [1.0] * 4
    assert result.rank.tolist() == [2.5] * 4


def test_rounding_noise_does_not_affect_ranks() -> None:
    rng = np.random.default_rng(0)
    result = metrics.instance_level(0.3 + rng.normal(0, 1e-9, (5, 5)), ks=(1,))
    assert result.recall_at[1].tolist() == pytest.approx([0.2] * 5)


def test_the_bootstrap_has_nominal_coverage() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(60):
        values = rng.normal(1.0, 1.0, 60)
        resampling = GroupBootstrap([str(row) for row in range(60)], resamples=200, seed=seed)
        interval = resampling.statistic(lambda rows, values=values: float(values[rows].mean()))
        covered += interval.low <= 1.0 <= interval.high
    assert 48 <= covered <= 60


def test_the_bootstrap_resamples_whole_groups() -> None:
    # Twenty copies of each of five patients are no more informative than five patients.
    values = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 20)
    rows, groups = [str(row) for row in range(100)], [str(value) for value in values]
    widths = []
    for by in (rows, groups):
        resampling = GroupBootstrap(by, resamples=300, seed=0)
        interval = resampling.statistic(lambda sample: float(values[sample].mean()))
        widths.append(interval.high - interval.low)
    assert widths[1] > 2.5 * widths[0]


def test_the_bootstrap_is_reproducible() -> None:
    values = np.arange(10.0)

    def once(seed: int) -> Interval:
        resampling = GroupBootstrap(list("abcdefghij"), resamples=50, seed=seed)
        return resampling.statistic(lambda rows: float(values[rows].mean()))

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_the_classless_baseline_averages_a_ranking_over_query_classes() -> None:
    """One order for all queries: a a b. AP of query class a: 1; of b: 1/3. Two of three queries are of class a."""
    scores = np.tile([0.9, 0.8, 0.7], (3, 1))
    result = metrics.class_level(
        scores,
        query_labels=np.array([0, 0, 1]),
        pool_labels=np.array([0, 0, 1]),
        excluded=np.zeros((3, 3), dtype=bool),
        ks=(1,),
    )
    assert result.average_precision == pytest.approx([1, 1, 1 / 3])
    assert result.classless_average_precision == pytest.approx([(2 * 1 + 1 / 3) / 3] * 3)
    assert result.classless_average_precision.mean() == pytest.approx(result.average_precision.mean())


def test_excluded_items_belong_to_no_class() -> None:
    result = metrics.class_level(
        np.array([[0.9, 0.8, 0.7]]),
        query_labels=np.array([0]),
        pool_labels=np.array([1, 0, 0]),
        excluded=np.array([[True, False, True]]),
        ks=(1,),
    )
    assert result.average_precision.tolist() == [1]
    assert result.classless_average_precision.tolist() == [1]


def _id(query: int) -> str:
    """A query id; ranx returns results in the order of the ids."""
    return f"{query:03d}"


@given(st.integers(0, 2**31 - 1), st.integers(2, 5), st.integers(6, 40))
@settings(max_examples=25, deadline=None)
def test_class_level_agrees_with_ranx(seed: int, queries: int, pool: int) -> None:
    """Scores without ties, which ranx ranks in the same order; some items excluded."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(queries * pool).reshape(queries, pool) / (queries * pool)
    labels, held = rng.integers(0, 3, queries), rng.integers(0, 3, pool)
    excluded = rng.random((queries, pool)) < 0.1
    relevant = (labels[:, None] == held[None, :]) & ~excluded
    with_hits = [query for query in range(queries) if relevant[query].any()]
    assume(with_hits)
    judged = {_id(query): {str(item): 1 for item in np.flatnonzero(relevant[query])} for query in with_hits}
    ranked = {
        _id(query): {str(item): float(scores[query, item]) for item in np.flatnonzero(~excluded[query])}
        for query in with_hits
    }
    theirs = ranx.evaluate(ranx.Qrels(judged), ranx.Run(ranked), ["map", "precision@3"], return_mean=False)
    ours = metrics.class_level(scores, query_labels=labels, pool_labels=held, excluded=excluded, ks=(3,))
    assert ours.average_precision[with_hits] == pytest.approx(theirs["map"])
    deep = [position for position, query in enumerate(with_hits) if len(ranked[_id(query)]) >= 3]
    assert ours.precision_at[3][with_hits][deep] == pytest.approx(theirs["precision@3"][deep])


@given(st.integers(0, 2**31 - 1), st.integers(4, 30))
@settings(max_examples=25, deadline=None)
def test_instance_level_agrees_with_ranx(seed: int, size: int) -> None:
    scores = np.random.default_rng(seed).permutation(size * size).reshape(size, size) / (size * size)
    judged = ranx.Qrels({_id(query): {str(query): 1} for query in range(size)})
    run = ranx.Run(
        {_id(query): {str(item): float(scores[query, item]) for item in range(size)} for query in range(size)}
    )
    theirs = ranx.evaluate(judged, run, ["recall@1", "recall@3", "mrr"], return_mean=False)
    ours = metrics.instance_level(scores, ks=(1, 3))
    assert ours.recall_at[1] == pytest.approx(theirs["recall@1"])
    assert ours.recall_at[3] == pytest.approx(theirs["recall@3"])
    assert 1 / ours.rank == pytest.approx(theirs["mrr"])
