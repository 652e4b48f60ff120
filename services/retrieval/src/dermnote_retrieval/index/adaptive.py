"""The index of one route: exact while it is small, inverted lists beside the exact vectors once it is large.

The lists are built aside while searches and writes go on, their recall is measured against exact search, and they are
swapped in; what changed meanwhile is caught up with. Filters that leave little are always searched exactly.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dermnote_retrieval.index.exact import Matrix
from dermnote_retrieval.index.faiss_backend import Lists, Mask, use_threads
from dermnote_retrieval.index.id_map import NOWHERE
from dermnote_retrieval.index.types import EVERYTHING, Found, Numbers, Recall, Selection, Vectors

log = logging.getLogger(__name__)
CANDIDATES_A_HIT = 4
MIN_CANDIDATES = 64
RECALL_AT = 10
RECALL_QUERIES = 256
# Queries of one exact search while recall is measured: others wait for the lock that long, then for the pause.
MEASURED_AT_ONCE = 8
PAUSE_S = 0.001
# Vectors that a list's centre is trained on.
SAMPLE_A_LIST = 64
# Vectors that are copied or added at a time while others wait for the lock.
CHUNK = 8192
# Built anew once it holds this many times more, or fewer, than when it was built.
OUTGROWN = 2.0
# A filter may make as many more lists be looked into; one that needs more is searched exactly.
MOST_WIDENING = 8.0
# Its files.
NUMBERS, VECTORS, LISTS = "numbers.npy", "vectors.npy", "lists.faiss"


@dataclass(frozen=True)
class Limits:
    """`flat_vectors`: up to so many are searched exactly, filtered or not; `recall_goal`: of what is built beyond it.

    `threads`: that FAISS uses for one search.
    """

    flat_vectors: int = 200_000
    recall_goal: float = 0.97
    threads: int = 1


@dataclass(frozen=True)
class _Built:
    lists: Lists
    probes: int
    recall: Recall
    size: int


@dataclass(frozen=True)
class Saved:
    """What the files of a written index hold. The last three only where it has lists."""

    count: int
    dim: int
    probes: int | None = None
    size: int = 0
    recall: tuple[int, float] | None = None


class AdaptiveIndex:
    """For many threads. A batch of searches holds `_lock` for milliseconds, so who only looks vectors up takes `_edit`.

    Writers take both, in this order.
    """

    def __init__(self, dim: int, limits: Limits) -> None:
        self.dim = dim
        self._limits = limits
        self._matrix = Matrix(dim)
        self._lock = threading.Lock()
        self._edit = threading.Lock()
        self._built: _Built | None = None
        self._changed: set[int] | None = None

    @property
    def kind(self) -> str:
        """`flat` (exact) or `ivf-sq8` (inverted lists of 8 bit a value, ranked by the exact vectors)."""
        return "flat" if self._built is None else "ivf-sq8"

    @property
    def recall(self) -> Recall | None:
        """As measured when the lists were built."""
        built = self._built
        return None if built is None else built.recall

    @property
    def building(self) -> bool:
        """Whether lists are being built beside it now."""
        return self._changed is not None

    @property
    def bytes_(self) -> int:
        """Memory of vectors, numbers and lists."""
        built = self._built
        return self._matrix.bytes_ + (0 if built is None else built.lists.bytes_)

    def __len__(self) -> int:
        return len(self._matrix)

    def reserve(self, count: int) -> None:
        """Room for so many vectors in all."""
        with self._lock, self._edit:
            self._matrix.reserve(count)

    def replace(self, *, gone: Sequence[int], numbers: Sequence[int], vectors: Vectors) -> None:
        """Take out `gone`, write `vectors` [n, dim] for `numbers`, in one step."""
        with self._lock, self._edit:
            if self._changed is not None:
                self._changed.update(gone, numbers)
            if self._built is not None:
                self._built.lists.remove([*gone, *numbers])
                self._built.lists.add(np.asarray(numbers, np.int64), vectors)
            self._matrix.replace(gone=gone, numbers=numbers, vectors=vectors)

    def vector(self, number: int) -> Vectors | None:
        """A copy of an item's vector [dim], or None."""
        return self.vectors([number])[0]

    def vectors(self, numbers: Sequence[int]) -> list[Vectors | None]:
        """Copies of items' vectors [dim], None for those that have none. Does not wait for searches."""
        with self._edit:
            return self._matrix.vectors_of(numbers)

    def save(self, folder: Path) -> Saved:
        """Write it into a folder. The caller sees to it that nobody writes meanwhile; searches go on."""
        np.save(folder / NUMBERS, self._matrix.rows.numbers)
        np.save(folder / VECTORS, self._matrix.vectors)
        built = self._built
        if built is None:
            return Saved(count=len(self), dim=self.dim)
        built.lists.save(folder / LISTS)
        return Saved(len(self), self.dim, built.probes, built.size, (built.recall.queries, built.recall.value))

    @classmethod
    def load(cls, folder: Path, saved: Saved, limits: Limits) -> "AdaptiveIndex":
        """What was written; raises OSError or ValueError for files that are not."""
        numbers, vectors = np.load(folder / NUMBERS), np.load(folder / VECTORS)
        if numbers.shape != (saved.count,) or vectors.shape != (saved.count, saved.dim):
            raise ValueError(f"{folder} holds {numbers.shape} numbers and {vectors.shape} vectors")
        index = cls(saved.dim, limits)
        index._matrix.adopt(numbers, vectors)
        if saved.probes is not None and saved.recall is not None:
            lists = Lists.load(folder / LISTS)
            if len(lists) != saved.count:
                raise ValueError(f"{folder} holds lists of {len(lists)} vectors")
            index._built = _Built(lists, saved.probes, Recall(RECALL_AT, *saved.recall), size=saved.size)
        return index

    def search(self, vectors: Vectors, *, k: int, among: Selection = EVERYTHING) -> list[Found]:
        """For each of `vectors` [n, dim] the `k` nearest in `among`; k of them whenever there are k."""
        use_threads(self._limits.threads)
        with self._lock:
            allowed = self._matrix.mask(among)
            left = len(self) if allowed is None else int(np.count_nonzero(allowed))
            if self._built is None or left <= self._limits.flat_vectors:
                return self._matrix.search(vectors, k=k, allowed=allowed)
            return self._by_lists(self._built, vectors, k=min(k, left), allowed=allowed, left=left)

    def _by_lists(self, built: _Built, vectors: Vectors, *, k: int, allowed: Mask | None, left: int) -> list[Found]:
        widening = len(self) / left
        if widening > MOST_WIDENING:
            return self._matrix.search(vectors, k=k, allowed=allowed)
        by_number = None if allowed is None else self._by_number(allowed)
        candidates = max(MIN_CANDIDATES, CANDIDATES_A_HIT * k)
        # So many lists hold enough for all candidates, if they are of average length.
        enough = math.ceil(candidates * built.lists.lists / len(self))
        probes = math.ceil(max(built.probes, enough) * widening)
        _, numbers = built.lists.search(vectors, k=candidates, probes=probes, allowed=by_number)
        found = [self._matrix.ranked(v, n[n >= 0], k=k) for v, n in zip(vectors, numbers, strict=True)]
        for place, one in enumerate(found):
            if len(one) < k:  # the lists that were looked into hold too few that are allowed
                (found[place],) = self._matrix.search(vectors[place : place + 1], k=k, allowed=allowed)
        return found

    def _by_number(self, allowed: Mask) -> Mask:
        numbers = self._matrix.rows.numbers[allowed]
        mask = np.zeros(int(numbers.max()) + 1, bool)
        mask[numbers] = True
        return mask

    @property
    def outgrown(self) -> bool:
        """Whether lists should be built now."""
        built, size = self._built, len(self)
        if size <= self._limits.flat_vectors:
            return False
        return built is None or not built.size / OUTGROWN <= size <= built.size * OUTGROWN

    def shrink(self) -> bool:
        """Go back to exact search where it has become small enough; whether it did."""
        with self._lock:
            small = self._built is not None and len(self) <= self._limits.flat_vectors // 2
            if small:
                self._built = None
            return small

    def build(self, *, stop: threading.Event) -> bool:
        """Build lists aside, measure them, swap them in; False when told to stop. One builder at a time."""
        use_threads(self._limits.threads)
        with self._lock:
            self._changed = set()
            numbers = self._matrix.rows.numbers.copy()
        try:
            lists = self._filled(numbers, stop=stop)
            if lists is None:
                return False
            with self._lock:  # before it is measured: what is not in the lists can't be found by them
                self._catch_up(lists)
            probes, recall = self._tuned(lists, numbers)
            with self._lock:
                self._catch_up(lists)
                self._built = _Built(lists, probes, recall, size=len(self))
        finally:
            self._changed = None
        log.info("%d vectors in %d lists, %d looked into: recall %.3f", len(self), lists.lists, probes, recall.value)
        return True

    def _filled(self, numbers: Numbers, *, stop: threading.Event) -> Lists | None:
        count = lists_for(len(numbers))
        drawn = np.random.default_rng(0).choice(numbers, min(len(numbers), count * SAMPLE_A_LIST), replace=False)
        lists = Lists(self._copied(drawn)[1], lists=count)
        for start in range(0, len(numbers), CHUNK):
            if stop.is_set():
                return None
            lists.add(*self._copied(numbers[start : start + CHUNK]))
        return lists

    def _copied(self, numbers: Numbers) -> tuple[Numbers, Vectors]:
        """Those that are still held, with their vectors as they are now. Does not wait for searches."""
        with self._edit:
            held = numbers[self._matrix.rows.of(numbers) != NOWHERE]
            return held, self._matrix.of(held)

    def _catch_up(self, lists: Lists) -> None:
        """What changed while the lists were filled may be in them as it was: out with it, then in as it is."""
        changed = np.fromiter(self._changed or (), np.int64)
        self._changed = set()
        lists.remove(changed)
        held = changed[self._matrix.rows.of(changed) != NOWHERE]
        lists.add(held, self._matrix.of(held))

    def _tuned(self, lists: Lists, numbers: Numbers) -> tuple[int, Recall]:
        """(fewest lists to look into that reach the goal, the recall then), over own vectors, each without itself."""
        drawn = np.random.default_rng(1).choice(numbers, min(len(numbers), RECALL_QUERIES), replace=False)
        asked, queries = self._copied(drawn)
        exact = [one for part in _parts(queries) for one in self._exactly(part)]
        probes = 1
        while True:
            found = [one for part in _parts(queries) for one in self._roughly(lists, part, probes=probes)]
            value = _recall(found, exact, without=asked)
            if value >= self._limits.recall_goal or probes >= lists.lists:
                return probes, Recall(RECALL_AT, len(asked), value)
            probes *= 2

    def _exactly(self, queries: Vectors) -> list[Found]:
        time.sleep(PAUSE_S)
        with self._lock:
            return self._matrix.search(queries, k=RECALL_AT + 1, allowed=None)

    def _roughly(self, lists: Lists, queries: Vectors, *, probes: int) -> list[Found]:
        _, candidates = lists.search(queries, k=MIN_CANDIDATES, probes=probes)
        with self._lock:
            pairs = zip(queries, candidates, strict=True)
            return [self._matrix.ranked(query, near[near >= 0], k=RECALL_AT + 1) for query, near in pairs]


def lists_for(count: int) -> int:
    """About 2 sqrt(n) lists, a power of two: half of FAISS's least advice, for a quarter of its training time."""
    return int(2 ** max(0, round(math.log2(2 * math.sqrt(count)))))


def _parts(queries: Vectors) -> list[Vectors]:
    return [queries[start : start + MEASURED_AT_ONCE] for start in range(0, len(queries), MEASURED_AT_ONCE)]


def _recall(found: Sequence[Found], exact: Sequence[Found], *, without: Numbers) -> float:
    """Mean share of the exact neighbours that were found, the query itself left out of both."""
    shares = []
    for own, rough, true in zip(without.tolist(), found, exact, strict=True):
        near = {number for number, _ in true if number != own}
        seen = {number for number, _ in rough if number != own}
        shares.append(len(near & seen) / len(near) if near else 1.0)
    return float(np.mean(shares)) if shares else 1.0
