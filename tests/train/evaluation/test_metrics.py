"""Metrics against scikit-learn, torchmetrics, brute force, and cases that can be counted by hand."""

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

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def _nothing_excluded(queries: int, pool: int) -> np.ndarray:
    return np.zeros((queries, pool), dtype=bool)


@given(LABELS)
def test_balanced_accuracy_and_f1_are_sklearns(pairs: list[tuple[int, int]]) -> None:
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
def test_auroc_is_sklearn_s_with_ties_and_without_classes_that_say_nothing(drawn: list[tuple[int, list[int]]]) -> None:
    labels, probabilities = _columns(drawn)
    found = metrics.auroc_macro(labels, probabilities)
    present = np.unique(labels)
    if len(present) < 2:
        assert np.isnan(found)
        return
    expected = np.mean([roc_auc_score(labels == name, probabilities[:, name]) for name in present])
    assert found == pytest.approx(expected)


def test_auroc_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    # Of the four pairs of a 0 and a 1 the first column orders three.
    assert metrics.auroc_macro(np.array([0, 0, 1, 1]), probabilities) == pytest.approx(0.75)


@given(PROBABILITIES)
def test_the_calibration_error_is_torchmetrics(drawn: list[tuple[int, list[int]]]) -> None:
    labels, probabilities = _columns(drawn)
    probabilities = probabilities * 0.999 + 0.00025  # off the bins' borders, where rounding decides
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities).double(), torch.from_numpy(labels), num_classes=4, n_bins=15, norm="l1"
    )
    assert metrics.calibration_error(labels, probabilities) == pytest.approx(theirs.item(), abs=1e-6)


def test_the_calibration_error_by_hand() -> None:
    # Two bins: at .9 one of two is right (|.5 - .9|), at .6 both are (|1 - .6|).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert metrics.calibration_error(np.array([0, 1, 1, 1]), probabilities) == pytest.approx(0.4)
    assert metrics.calibration_error(np.array([0, 1]), np.array([[1.0, 0.0], [0.0, 1.0]])) == 0


def test_confusion_counts_true_by_predicted() -> None:
    counts = metrics.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), classes=4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_class_level_agrees_with_sklearn_and_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    # Scores above 0 only: torchmetrics takes an item of score 0 or less as not found, which a cosine may well be.
    scores, labels, pool = rng.random((6, 30)), rng.integers(0, 3, 6), rng.integers(0, 3, 30)
    found = metrics.class_level(
        scores, query_labels=labels, pool_labels=pool, excluded=_nothing_excluded(6, 30), ks=(1, 5, 10)
    )
    for query in range(6):
        relevant = pool == labels[query]
        ranked = torch.from_numpy(scores[query]), torch.from_numpy(relevant)
        assert found.average_precision[query] == pytest.approx(average_precision_score(relevant, scores[query]))
        assert found.average_precision[query] == pytest.approx(retrieval_average_precision(*ranked).item(), rel=1e-5)
        for k in (1, 5, 10):
            assert found.precision_at[k][query] == pytest.approx(retrieval_precision(*ranked, top_k=k).item())


def test_what_is_excluded_is_not_ranked() -> None:
    scores = np.array([[0.9, 0.8, 0.1, 0.7]])
    excluded = np.array([[True, False, False, False]])
    found = metrics.class_level(
        scores, query_labels=np.array([1]), pool_labels=np.array([1, 0, 1, 0]), excluded=excluded, ks=(1, 3)
    )
    assert found.precision_at[1].tolist() == [0]
    assert found.precision_at[3].tolist() == [pytest.approx(1 / 3)]
    assert found.average_precision.tolist() == [pytest.approx(1 / 3)]
    assert found.chance_precision.tolist() == [pytest.approx(1 / 3)]


def test_a_query_without_anything_relevant_is_not_counted() -> None:
    found = metrics.class_level(
        np.array([[0.5, 0.4], [0.5, 0.4]]),
        query_labels=np.array([0, 7]),
        pool_labels=np.array([0, 1]),
        excluded=_nothing_excluded(2, 2),
        ks=(1,),
    )
    assert found.precision_at[1][0] == 1
    assert np.isnan(found.precision_at[1][1])
    assert np.isnan(found.average_precision[1])


def test_precision_beyond_the_pool_is_over_the_pool() -> None:
    found = metrics.class_level(
        np.array([[0.5, 0.4]]),
        query_labels=np.array([0]),
        pool_labels=np.array([0, 1]),
        excluded=_nothing_excluded(1, 2),
        ks=(10,),
    )
    assert found.precision_at[10].tolist() == [0.5]


def test_the_order_of_the_rows_does_not_decide_ties() -> None:
    pool = np.repeat([0, 1], 50)
    found = metrics.class_level(
        np.zeros((200, 100)),
        query_labels=np.zeros(200, dtype=int),
        pool_labels=pool,
        excluded=_nothing_excluded(200, 100),
        ks=(1,),
    )
    assert 0.35 < found.precision_at[1].mean() < 0.65


def test_chance_is_the_mean_over_every_ranking() -> None:
    for relevant, pool in ((1, 1), (1, 4), (2, 5), (3, 3)):
        figures = []
        for places in itertools.combinations(range(1, pool + 1), relevant):
            figures.append(sum((hit + 1) / place for hit, place in enumerate(places)) / relevant)
        assert metrics.chance_ap(relevant, pool) == pytest.approx(np.mean(figures))
    assert np.isnan(metrics.chance_ap(0, 5))


def test_instance_level_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.1], [0.3, 0.2, 0.1]])
    found = metrics.instance_level(scores, ks=(1, 2))
    assert found.rank.tolist() == [1, 2, 3]
    assert found.recall_at[1].tolist() == [1, 0, 0]
    assert found.recall_at[2].tolist() == [1, 1, 0]


def test_equal_notes_share_the_recall_and_the_middle_rank() -> None:
    found = metrics.instance_level(np.full((4, 4), 0.3), ks=(1, 2, 4))
    assert found.recall_at[1].tolist() == [0.25] * 4
    assert found.recall_at[2].tolist() == [0.5] * 4
    assert found.recall_at[4].tolist() == [1.0] * 4
    assert found.rank.tolist() == [2.5] * 4


def test_rounding_noise_makes_no_rank() -> None:
    rng = np.random.default_rng(0)
    found = metrics.instance_level(0.3 + rng.normal(0, 1e-9, (5, 5)), ks=(1,))
    assert found.recall_at[1].tolist() == pytest.approx([0.2] * 5)


def test_the_bootstrap_covers_what_it_should() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(60):
        values = rng.normal(1.0, 1.0, 60)
        low, high = metrics.bootstrap(
            lambda rows, values=values: float(values[rows].mean()),
            [str(row) for row in range(60)],
            resamples=200,
            seed=seed,
        )
        covered += low <= 1.0 <= high
    assert 48 <= covered <= 60


def test_the_bootstrap_draws_whole_groups() -> None:
    # Twenty copies of each of five patients say no more than five patients do.
    values = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 20)
    rows, groups = [str(row) for row in range(100)], [str(value) for value in values]
    widths = []
    for by in (rows, groups):
        low, high = metrics.bootstrap(lambda drawn: float(values[drawn].mean()), by, resamples=300, seed=0)
        widths.append(high - low)
    assert widths[1] > 2.5 * widths[0]


def test_the_bootstrap_is_repeatable() -> None:
    values = np.arange(10.0)

    def once(seed: int) -> tuple[float, float]:
        return metrics.bootstrap(lambda rows: float(values[rows].mean()), list("abcdefghij"), resamples=50, seed=seed)

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_a_ranking_that_knows_no_class_is_held_against_itself() -> None:
    """One order for all: a a b. Asked for a: AP 1; for b: 1/3. Two of three queries ask for a."""
    scores = np.tile([0.9, 0.8, 0.7], (3, 1))
    found = metrics.class_level(
        scores,
        query_labels=np.array([0, 0, 1]),
        pool_labels=np.array([0, 0, 1]),
        excluded=np.zeros((3, 3), dtype=bool),
        ks=(1,),
    )
    assert found.average_precision == pytest.approx([1, 1, 1 / 3])
    assert found.classless_average_precision == pytest.approx([(2 * 1 + 1 / 3) / 3] * 3)
    assert found.classless_average_precision.mean() == pytest.approx(found.average_precision.mean())


def test_what_is_left_out_is_in_no_class() -> None:
    found = metrics.class_level(
        np.array([[0.9, 0.8, 0.7]]),
        query_labels=np.array([0]),
        pool_labels=np.array([1, 0, 0]),
        excluded=np.array([[True, False, True]]),
        ks=(1,),
    )
    assert found.average_precision.tolist() == [1]
    assert found.classless_average_precision.tolist() == [1]


COMPILED = pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaWarning")
"""ranx is compiled where it is used first, and numba has remarks on its code."""


def _id(query: int) -> str:
    """ranx answers in the order of the names."""
    return f"{query:03d}"


@COMPILED
@given(st.integers(0, 2**31 - 1), st.integers(2, 5), st.integers(6, 40))
@settings(max_examples=25, deadline=None)
def test_class_and_instance_level_are_ranx_s(seed: int, queries: int, pool: int) -> None:
    """Scores without ties, in an order that ranx ranks alike; some items excluded."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(queries * pool).reshape(queries, pool) / (queries * pool)
    labels, held = rng.integers(0, 3, queries), rng.integers(0, 3, pool)
    excluded = rng.random((queries, pool)) < 0.1
    relevant = (labels[:, None] == held[None, :]) & ~excluded
    asked = [query for query in range(queries) if relevant[query].any()]
    assume(asked)
    judged = {_id(query): {str(item): 1 for item in np.flatnonzero(relevant[query])} for query in asked}
    ranked = {
        _id(query): {str(item): float(scores[query, item]) for item in np.flatnonzero(~excluded[query])}
        for query in asked
    }
    theirs = ranx.evaluate(ranx.Qrels(judged), ranx.Run(ranked), ["map", "precision@3"], return_mean=False)
    ours = metrics.class_level(scores, query_labels=labels, pool_labels=held, excluded=excluded, ks=(3,))
    assert ours.average_precision[asked] == pytest.approx(theirs["map"])
    deep = [place for place, query in enumerate(asked) if len(ranked[_id(query)]) >= 3]
    assert ours.precision_at[3][asked][deep] == pytest.approx(theirs["precision@3"][deep])


@COMPILED
@given(st.integers(0, 2**31 - 1), st.integers(4, 30))
@settings(max_examples=25, deadline=None)
def test_instance_level_is_ranx_s(seed: int, size: int) -> None:
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
