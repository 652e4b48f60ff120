"""The index of one route against a plain numpy scan: any writes, any selection, exact and with lists."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from dermnote_retrieval.index.adaptive import AdaptiveIndex, Limits, lists_for
from dermnote_retrieval.index.exact import (
    MISSING,
    IdMap,
    Neighbours,
    Numbers,
    Selection,
    Vectors,
    limit_blas_threads,
    matrix_product,
    product_is_faster,
)
from dermnote_retrieval.index.faiss_backend import exact

DIM = 12
SMALL = Limits(flat_vectors=400, recall_goal=0.95)
NEVER = threading.Event()


def unit(rows: Vectors) -> Vectors:
    scaled: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled.astype(np.float32)


def drawn(count: int, *, seed: int = 0, dim: int = DIM) -> Vectors:
    """Unit vectors in clusters, like those of encoders."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(20, dim))
    return unit(centres[draw.integers(0, 20, count)] + 0.5 * draw.normal(size=(count, dim)))


def scan(held: Mapping[int, Vectors], query: Vectors, *, k: int, allowed: set[int]) -> list[float]:
    """The k best cosines among the allowed, by brute force."""
    return sorted((float(held[number] @ query) for number in held if number in allowed), reverse=True)[:k]


def check(index: AdaptiveIndex, held: Mapping[int, Vectors], query: Vectors, *, k: int, allowed: set[int]) -> None:
    """Check that results are allowed, correctly scored, best first, and as good as the scan's."""
    selection = Selection(allowed=np.array(sorted(allowed), np.int64))
    (result,) = index.search(query[None], k=k, selection=selection)
    assert len(result) == min(k, len(allowed & held.keys()))
    assert {number for number, _ in result} <= allowed & held.keys()
    scores = [score for _, score in result]
    assert scores == pytest.approx([float(held[number] @ query) for number, _ in result], abs=1e-5)
    assert scores == sorted(scores, reverse=True)
    if index.kind == "flat":
        assert scores == pytest.approx(scan(held, query, k=k, allowed=allowed), abs=1e-5)


@pytest.fixture(scope="module")
def large() -> tuple[AdaptiveIndex, dict[int, Vectors]]:
    """5000 vectors in lists."""
    vectors, index = drawn(5000), AdaptiveIndex(DIM, SMALL)
    numbers = list(range(10, 5010))
    index.replace(removed=[], numbers=numbers, vectors=vectors)
    assert index.outgrown
    assert index.build(stop=NEVER)
    assert not index.outgrown
    return index, dict(zip(numbers, vectors, strict=True))


def test_ids_map_to_rows_and_back_after_removals() -> None:
    ids = IdMap()
    ids.append([5, 3, 9])
    ids.append([7])

    assert ids.remove(3) == (1, 3)  # the last row moves into the gap
    assert ids.numbers.tolist() == [5, 7, 9]
    assert ids.rows([9, 3, 7, 5, 10**6, -1]).tolist() == [2, MISSING, 1, 0, MISSING, MISSING]
    assert ids.remove(9) == (2, 2)
    ids.append([3])
    assert ids.numbers.tolist() == [5, 7, 3]
    assert len(ids) == 3


WRITES = st.lists(
    st.tuples(st.lists(st.integers(1, 40), max_size=4), st.lists(st.integers(1, 40), max_size=6, unique=True)),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(writes=WRITES, k=st.integers(1, 50), allowed=st.sets(st.integers(1, 45)), seed=st.integers(0, 2**16))
def test_any_writes_leave_the_same_content_as_a_dict(
    writes: list[tuple[list[int], list[int]]], k: int, allowed: set[int], seed: int
) -> None:
    index, held = AdaptiveIndex(DIM, SMALL), dict[int, Vectors]()
    draw = np.random.default_rng(seed)
    for removed, numbers in writes:
        vectors = unit(draw.normal(size=(len(numbers), DIM)).astype(np.float32)) if numbers else np.empty((0, DIM))
        index.replace(removed=removed, numbers=numbers, vectors=vectors.astype(np.float32))
        for number in removed:
            held.pop(number, None)
        held.update(zip(numbers, vectors, strict=True))

    assert len(index) == len(held)
    for number in range(1, 46):
        vector = index.vector(number)
        assert (vector is None) == (number not in held)
        if vector is not None:
            assert np.array_equal(vector, held[number])
    check(index, held, unit(draw.normal(size=(1, DIM)))[0], k=k, allowed=allowed)


def test_a_batch_of_searches_equals_single_searches() -> None:
    index = AdaptiveIndex(DIM, SMALL)
    index.replace(removed=[], numbers=list(range(300)), vectors=drawn(300))
    queries = drawn(40, seed=5)

    together = index.search(queries, k=7)

    for query, result in zip(queries, together, strict=True):
        (alone,) = index.search(query[None], k=7)
        assert [number for number, _ in result] == [number for number, _ in alone]
        assert [score for _, score in result] == pytest.approx([score for _, score in alone], abs=1e-5)


@pytest.mark.parametrize("kept", [0.5, 0.01, 0.0005])
@pytest.mark.parametrize("k", [1, 10, 400])
def test_a_filtered_search_in_lists_finds_k_if_there_are_k(
    large: tuple[AdaptiveIndex, dict[int, Vectors]], kept: float, k: int
) -> None:
    index, held = large
    assert index.kind == "ivf-sq8"
    draw = np.random.default_rng(int(kept * 1e5) + k)
    for query in drawn(8, seed=3):
        allowed = set(draw.choice(sorted(held), max(1, int(kept * len(held))), replace=False).tolist())
        check(index, held, query, k=k, allowed=allowed | {10**7})


@given(
    rows=st.integers(1, 300),
    queries=st.integers(1, 9),
    kept=st.floats(0.05, 1),
    k=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_the_matrix_product_finds_the_same_as_faiss(rows: int, queries: int, kept: float, k: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    matrix = draw.standard_normal((rows, 16)).astype(np.float32)
    query_vectors = draw.standard_normal((queries, 16)).astype(np.float32)
    allowed = draw.random(rows) < kept
    allowed[draw.integers(rows)] = True
    k = min(k, int(allowed.sum()))

    ours, theirs = (search(query_vectors, matrix, k=k, allowed=allowed) for search in (matrix_product, exact))

    assert np.array_equal(ours[1], theirs[1])
    assert np.allclose(ours[0], theirs[0], atol=1e-4)


def test_the_setting_limits_the_threads_of_a_matrix_product() -> None:
    before = threadpoolctl.threadpool_info()
    try:
        limit_blas_threads(1)
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"} == {1}
    finally:
        limit_blas_threads(max(pool["num_threads"] for pool in before if pool["user_api"] == "blas"))


@pytest.mark.parametrize(
    ("queries", "rows", "selected", "faster"),
    [
        (1, 1000, 1000, True),
        (2, 1000, 1000, False),
        (4, 1000, 1000, True),
        (1, 1000, 500, False),
        (4, 1000, 500, True),
        (4, 1000, 10, False),
        (64, 1_000_000, 900_000, False),
    ],
)
def test_when_the_matrix_product_is_used(queries: int, rows: int, selected: int, *, faster: bool) -> None:
    assert product_is_faster(queries=queries, rows=rows, selected=selected) == faster


def test_excluded_items_are_never_found(large: tuple[AdaptiveIndex, dict[int, Vectors]]) -> None:
    index, held = large
    (number, query) = next(iter(held.items()))

    (result,) = index.search(query[None], k=5)
    (without,) = index.search(query[None], k=5, selection=Selection(excluded=np.array([number, 10**8])))

    assert result[0] == (number, pytest.approx(1, abs=1e-5))
    assert number not in [one for one, _ in without]
    assert without[:4] == result[1:]


def test_the_reported_recall_is_achieved(large: tuple[AdaptiveIndex, dict[int, Vectors]]) -> None:
    index, held = large
    matrix, numbers = np.stack(list(held.values())), np.array(list(held))
    shares = []
    for query in drawn(200, seed=9):
        exact = set(numbers[np.argsort(-(matrix @ query))[:10]].tolist())
        (result,) = index.search(query[None], k=10)
        shares.append(len(exact & {number for number, _ in result}) / 10)

    assert index.recall is not None
    assert (index.recall.k, index.recall.queries) == (10, 256)
    assert index.recall.value >= SMALL.recall_goal
    assert np.mean(shares) >= SMALL.recall_goal - 0.05
    assert index.bytes_ > 5000 * DIM * 5


def test_writes_during_and_after_a_build_are_not_lost() -> None:
    """A writer and a reader run during the builds, which catch up with each change."""
    index, held = AdaptiveIndex(DIM, SMALL), dict(enumerate(drawn(3000), start=1))
    index.replace(removed=[], numbers=list(held), vectors=np.stack(list(held.values())))
    stop, draw = threading.Event(), np.random.default_rng(4)

    def read() -> int:
        fewest = 10
        while not stop.is_set():
            (result,) = index.search(drawn(1, seed=8), k=10)
            fewest = min(fewest, len(result))
        return fewest

    def build() -> list[bool]:
        return [index.build(stop=NEVER) for _ in range(3)]

    with ThreadPoolExecutor(2) as others:
        reader, builder = others.submit(read), others.submit(build)
        for round_ in range(300):
            removed = [int(draw.integers(1, 3000))]
            numbers = [int(draw.integers(1, 3000)), 4000 + round_]
            vectors = drawn(2, seed=round_)
            index.replace(removed=removed, numbers=numbers, vectors=vectors)
            held.pop(removed[0], None)
            held.update(zip(numbers, vectors, strict=True))
        built = builder.result(60)
        stop.set()
        fewest = reader.result(60)

    assert (built, fewest) == ([True] * 3, 10)
    assert len(index) == len(held) == len(index._tuned.lists)  # type: ignore[union-attr]
    for number in [4000, 4299, *draw.choice(sorted(held), 50).tolist()]:
        ((first, score), *_) = index.search(held[number][None], k=1)[0]
        assert score == pytest.approx(1, abs=1e-5)
        assert np.allclose(held[first], held[number], atol=1e-5)


def test_a_stopped_build_changes_nothing() -> None:
    index, stop = AdaptiveIndex(DIM, SMALL), threading.Event()
    index.replace(removed=[], numbers=list(range(1000)), vectors=drawn(1000))
    stop.set()

    assert not index.build(stop=stop)
    assert (index.kind, index.recall) == ("flat", None)


def test_a_small_index_returns_to_exact_search_and_an_outgrown_one_is_rebuilt() -> None:
    index, vectors = AdaptiveIndex(DIM, SMALL), drawn(2500)
    index.replace(removed=[], numbers=list(range(1000)), vectors=vectors[:1000])
    assert index.build(stop=NEVER)
    assert not index.shrink()
    index.replace(removed=[], numbers=list(range(1000, 2500)), vectors=vectors[1000:])
    assert index.outgrown

    index.replace(removed=list(range(2320)), numbers=[], vectors=np.empty((0, DIM), np.float32))

    assert not index.outgrown
    assert index.shrink()
    assert (index.kind, len(index)) == ("flat", 180)
    (result,) = index.search(vectors[2400][None], k=1)
    assert result[0][0] == 2400


@pytest.mark.parametrize(("count", "lists"), [(1, 2), (200_000, 1024), (1_000_000, 2048)])
def test_the_number_of_lists_grows_with_the_square_root_of_the_vectors(count: int, lists: int) -> None:
    assert lists_for(count) == lists


def test_an_empty_index_or_selection_finds_nothing() -> None:
    index = AdaptiveIndex(DIM, SMALL)
    none: Numbers = np.empty(0, np.int64)

    empty: list[Neighbours] = [[]]
    assert index.search(drawn(1), k=5) == empty
    index.replace(removed=[], numbers=[1], vectors=drawn(1))
    assert index.search(drawn(1), k=5, selection=Selection(allowed=none)) == empty


def test_vectors_can_be_read_during_a_search() -> None:
    """Marking near-duplicates must not wait for the searches of other queries."""
    index, vectors = AdaptiveIndex(DIM, SMALL), drawn(3)
    index.replace(removed=[], numbers=[1, 2, 3], vectors=vectors)

    with index._lock, ThreadPoolExecutor(1) as other:  # a search holds it
        result = other.submit(index.vectors, [3, 9, 1]).result(10)

    assert result[1] is None
    assert [v.tolist() for v in result if v is not None] == [vectors[2].tolist(), vectors[0].tolist()]
