"""The index of one route: exact vectors, and inverted lists in addition once it is large.

Lists are built in the background while searches and writes continue. Their recall is measured against exact search,
then they are swapped in with the changes made meanwhile. Filters that select few items are always searched exactly.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermnote_contracts.retrieval import IndexRecall
from dermnote_retrieval.index.exact import EVERYTHING, Neighbours, Selection, VectorMatrix
from dermnote_retrieval.index.faiss_backend import InvertedLists, Mask, Numbers, Vectors, use_threads

log = logging.getLogger(__name__)
CANDIDATES_PER_HIT = 4
MIN_CANDIDATES = 64
RECALL_AT = 10
RECALL_QUERIES = 256
# Queries per exact search while recall is measured. Each of these searches holds the lock; clients' searches run in the
# pauses between them.
MEASURED_AT_ONCE = 8
PAUSE_S = 0.001
# Training vectors per list.
SAMPLE_PER_LIST = 64
# Vectors copied from the matrix (under a lock) and added to the lists at a time.
CHUNK = 8192
# The lists are rebuilt once the index has grown or shrunk by this factor since the last build.
OUTGROWN = 2.0
# A filter may multiply the number of lists probed by up to this factor; a filter that needs more is searched exactly.
MAX_WIDENING = 8.0


@dataclass(frozen=True)
class Limits:
    """`flat_vectors`: up to this many vectors are searched exactly; `recall_goal`: recall that the lists must reach.

    `threads`: FAISS threads per search.
    """

    flat_vectors: int = 200_000
    recall_goal: float = 0.97
    threads: int = 1


@dataclass(frozen=True)
class _TunedLists:
    lists: InvertedLists
    probes: int
    recall: IndexRecall
    size: int


class AdaptiveIndex:
    """The index of one route; thread-safe.

    A batch of searches holds `_lock` for milliseconds, so vector look-ups take only `_edit`. Writers take `_lock`, then
    `_edit`.
    """

    def __init__(self, dim: int, limits: Limits) -> None:
        self.dim = dim
        self._limits = limits
        self._matrix = VectorMatrix(dim)
        self._lock = threading.Lock()
        self._edit = threading.Lock()
        self._tuned: _TunedLists | None = None
        self._changed: set[int] | None = None

    @property
    def kind(self) -> str:
        """`flat` (exact) or `ivf-sq8` (inverted lists with 8 bits per value, reranked by the exact vectors)."""
        return "flat" if self._tuned is None else "ivf-sq8"

    @property
    def recall(self) -> IndexRecall | None:
        """Recall as measured when the lists were built; None while there are no lists."""
        tuned = self._tuned
        return None if tuned is None else tuned.recall

    @property
    def building(self) -> bool:
        """Whether lists are being built in the background."""
        return self._changed is not None

    @property
    def bytes_(self) -> int:
        """Memory of vectors, numbers and lists."""
        tuned = self._tuned
        return self._matrix.bytes_ + (0 if tuned is None else tuned.lists.bytes_)

    def __len__(self) -> int:
        return len(self._matrix)

    def adopt(self, numbers: Numbers, vectors: Vectors) -> None:
        """Fill an empty index; the array `vectors` [n, dim] becomes the index's own memory."""
        self._matrix.adopt(numbers, vectors)

    def replace(self, *, removed: Sequence[int], numbers: Sequence[int], vectors: Vectors) -> None:
        """Remove `removed` and write `vectors` [n, dim] for `numbers`, in one step."""
        with self._lock, self._edit:
            if self._changed is not None:
                self._changed.update(removed, numbers)
            if self._tuned is not None:
                self._tuned.lists.remove([*removed, *numbers])
                self._tuned.lists.add(np.asarray(numbers, np.int64), vectors)
            self._matrix.replace(removed=removed, numbers=numbers, vectors=vectors)

    def vector(self, number: int) -> Vectors | None:
        """A copy of an item's vector [dim], or None."""
        return self.vectors([number])[0]

    def vectors(self, numbers: Sequence[int]) -> list[Vectors | None]:
        """Copies of items' vectors [dim]; None for items without one. Does not wait for searches."""
        with self._edit:
            return self._matrix.get(numbers)

    def search(self, vectors: Vectors, *, k: int, selection: Selection = EVERYTHING) -> list[Neighbours]:
        """The `k` nearest selected items of each of `vectors` [n, dim]; fewer only if fewer are selected."""
        use_threads(self._limits.threads)
        with self._lock:
            allowed = self._matrix.mask(selection)
            selected = len(self) if allowed is None else int(np.count_nonzero(allowed))
            if self._tuned is None or selected <= self._limits.flat_vectors:
                return self._matrix.search(vectors, k=k, allowed=allowed)
            return self._search_lists(self._tuned, vectors, k=min(k, selected), allowed=allowed, selected=selected)

    def _search_lists(
        self, tuned: _TunedLists, vectors: Vectors, *, k: int, allowed: Mask | None, selected: int
    ) -> list[Neighbours]:
        widening = len(self) / selected
        if widening > MAX_WIDENING:
            return self._matrix.search(vectors, k=k, allowed=allowed)
        by_number = None if allowed is None else self._mask_by_number(allowed)
        candidates = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * k)
        # This many lists of average length hold `candidates` vectors.
        enough = math.ceil(candidates * tuned.lists.lists / len(self))
        probes = math.ceil(max(tuned.probes, enough) * widening)
        _, numbers = tuned.lists.search(vectors, k=candidates, probes=probes, allowed=by_number)
        results = [self._matrix.rank(v, n[n >= 0], k=k) for v, n in zip(vectors, numbers, strict=True)]
        for row, neighbours in enumerate(results):
            if len(neighbours) < k:  # the probed lists hold too few selected items
                (results[row],) = self._matrix.search(vectors[row : row + 1], k=k, allowed=allowed)
        return results

    def _mask_by_number(self, allowed: Mask) -> Mask:
        numbers = self._matrix.ids.numbers[allowed]
        mask = np.zeros(int(numbers.max()) + 1, bool)
        mask[numbers] = True
        return mask

    @property
    def outgrown(self) -> bool:
        """Whether lists should be built now."""
        tuned, size = self._tuned, len(self)
        if size <= self._limits.flat_vectors:
            return False
        return tuned is None or not tuned.size / OUTGROWN <= size <= tuned.size * OUTGROWN

    def shrink(self) -> bool:
        """Drop the lists if the index has become small enough for exact search; returns whether it did."""
        with self._lock:
            small = self._tuned is not None and len(self) <= self._limits.flat_vectors // 2
            if small:
                self._tuned = None
            return small

    def build(self, *, stop: threading.Event) -> bool:
        """Build lists while searches and writes continue, measure and swap them in; False if stopped. One at a time."""
        use_threads(self._limits.threads)
        with self._lock:
            self._changed = set()
            numbers = self._matrix.ids.numbers.copy()
        try:
            lists = self._filled(numbers, stop=stop)
            if lists is None:
                return False
            with self._lock:  # before measuring: vectors missing from the lists would lower the recall
                self._catch_up(lists)
            probes, recall = self._tune(lists, numbers)
            with self._lock:
                self._catch_up(lists)
                self._tuned = _TunedLists(lists, probes, recall, size=len(self))
        finally:
            self._changed = None
        log.info(
            "built %d lists over %d vectors: recall %.3f with %d probes", lists.lists, len(self), recall.value, probes
        )
        return True

    def _filled(self, numbers: Numbers, *, stop: threading.Event) -> InvertedLists | None:
        count = lists_for(len(numbers))
        drawn = np.random.default_rng(0).choice(numbers, min(len(numbers), count * SAMPLE_PER_LIST), replace=False)
        lists = InvertedLists(self._copied(drawn)[1], lists=count)
        for start in range(0, len(numbers), CHUNK):
            if stop.is_set():
                return None
            lists.add(*self._copied(numbers[start : start + CHUNK]))
        return lists

    def _copied(self, numbers: Numbers) -> tuple[Numbers, Vectors]:
        """The numbers that still have a vector, and their present vectors. Does not wait for searches."""
        with self._edit:
            return self._matrix.known(numbers)

    def _catch_up(self, lists: InvertedLists) -> None:
        """Replace the vectors that changed while the lists were filled: the lists may hold older ones."""
        changed = np.fromiter(self._changed or (), np.int64)
        self._changed = set()
        lists.remove(changed)
        lists.add(*self._matrix.known(changed))

    def _tune(self, lists: InvertedLists, numbers: Numbers) -> tuple[int, IndexRecall]:
        """Double the probes until recall reaches the goal or every list is probed; returns (probes, recall).

        The queries are a sample of the index's own vectors. A query's own item counts neither as hit nor as neighbour.
        """
        drawn = np.random.default_rng(1).choice(numbers, min(len(numbers), RECALL_QUERIES), replace=False)
        own, queries = self._copied(drawn)
        exact = [neighbours for part in _parts(queries) for neighbours in self._search_exactly(part)]
        probes = 1
        while True:
            found = [near for part in _parts(queries) for near in self._search_roughly(lists, part, probes=probes)]
            value = _recall(found, exact, without=own)
            if value >= self._limits.recall_goal or probes >= lists.lists:
                return probes, IndexRecall(k=RECALL_AT, queries=len(own), value=value)
            probes *= 2

    def _search_exactly(self, queries: Vectors) -> list[Neighbours]:
        time.sleep(PAUSE_S)
        with self._lock:
            return self._matrix.search(queries, k=RECALL_AT + 1, allowed=None)

    def _search_roughly(self, lists: InvertedLists, queries: Vectors, *, probes: int) -> list[Neighbours]:
        _, candidates = lists.search(queries, k=MIN_CANDIDATES, probes=probes)
        with self._lock:
            pairs = zip(queries, candidates, strict=True)
            return [self._matrix.rank(query, near[near >= 0], k=RECALL_AT + 1) for query, near in pairs]


def lists_for(count: int) -> int:
    """About 2 sqrt(n), a power of two. FAISS recommends at least twice as many; training them takes 4 times as long."""
    return int(2 ** max(0, round(math.log2(2 * math.sqrt(count)))))


def _parts(queries: Vectors) -> list[Vectors]:
    return [queries[start : start + MEASURED_AT_ONCE] for start in range(0, len(queries), MEASURED_AT_ONCE)]


def _recall(found: Sequence[Neighbours], exact: Sequence[Neighbours], *, without: Numbers) -> float:
    """Mean share of the exact neighbours that were found, excluding the query itself from both."""
    shares = []
    for own, rough, true in zip(without.tolist(), found, exact, strict=True):
        near = {number for number, _ in true if number != own}
        hits = {number for number, _ in rough if number != own}
        shares.append(len(near & hits) / len(near) if near else 1.0)
    return float(np.mean(shares)) if shares else 1.0
