"""FAISS: exact inner products over a matrix, and inverted lists. The only file that imports faiss."""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Ranked = tuple[npt.NDArray[np.float32], Numbers]
"""(scores, ids), both [queries, k], best first; id -1 where fewer than k were found."""

TRAINING_ROUNDS = 8
# The `type: ignore`s below are needed because faiss's stubs describe its C++ methods, not the numpy wrappers.


def use_threads(threads: int) -> None:
    """Set the number of threads that FAISS uses for calls from this thread."""
    faiss.omp_set_num_threads(threads)


def exact(queries: Vectors, matrix: Vectors, *, k: int, allowed: Mask | None = None) -> Ranked:
    """The `k` rows of `matrix` [n, dim] with the largest inner product with each of `queries` [q, dim].

    `allowed` [n]: rows that may be returned.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    scores = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    bits, selector = _selector(allowed)
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(matrix),
        matrix.shape[1],
        len(queries),
        len(matrix),
        k,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(rows),
        selector,
    )
    del bits  # the selector points into it until here
    return scores, rows


def _selector(allowed: Mask | None) -> tuple[npt.NDArray[np.uint8] | None, faiss.IDSelector | None]:
    if allowed is None:
        return None, None
    bits = np.packbits(allowed, bitorder="little")
    return bits, faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))


class InvertedLists:
    """Vectors quantised to 8 bits per value, in one inverted list per centroid. Ids are item numbers.

    It yields candidates only: the caller ranks them by the exact vectors.
    """

    def __init__(self, sample: Vectors, *, lists: int) -> None:
        """`lists`: number of lists; `sample` [n, dim]: vectors that the centroids are trained on."""
        dim = sample.shape[1]
        coarse = faiss.IndexFlatIP(dim)
        self._faiss = faiss.IndexIVFScalarQuantizer(
            coarse, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
        )
        self._coarse: Any = coarse  # FAISS does not keep it alive
        self._faiss.cp.niter = TRAINING_ROUNDS
        self._faiss.cp.min_points_per_centroid = 1
        self._faiss.train(np.ascontiguousarray(sample, dtype=np.float32))
        self._faiss.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
        self.lists = lists

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    @property
    def bytes_(self) -> int:
        """Memory: vectors at 8 bits per value, their ids, a hash table of the ids (about 32 bytes each), centroids."""
        return len(self) * (self._faiss.code_size + 8 + 32) + self.lists * self._faiss.d * 4

    def add(self, numbers: Numbers, vectors: Vectors) -> None:
        """Add vectors [n, dim] of new numbers."""
        self._faiss.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), np.ascontiguousarray(numbers))

    def remove(self, numbers: Sequence[int] | Numbers) -> None:
        """Remove numbers; unknown ones are ignored."""
        removed = np.ascontiguousarray(numbers, dtype=np.int64)
        if len(removed):
            self._faiss.remove_ids(faiss.IDSelectorArray(len(removed), faiss.swig_ptr(removed)))

    def search(self, queries: Vectors, *, k: int, probes: int, allowed: Mask | None = None) -> Ranked:
        """Candidates from the `probes` nearest lists of each query. `allowed`: mask by item number."""
        bits, selector = _selector(allowed)
        parameters = faiss.SearchParametersIVF(nprobe=min(probes, self.lists), sel=selector)  # type: ignore[call-arg]
        scores, numbers = self._faiss.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)
        del bits
        return scores, numbers
