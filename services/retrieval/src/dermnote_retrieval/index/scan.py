"""Exact search as one matrix product and a partition: what NumPy's BLAS does faster than FAISS's kernels."""

import numpy as np

from dermnote_retrieval.index.kernels import Mask, Ranked
from dermnote_retrieval.index.results import Vectors

# From so many queries on, with a filter that keeps one row in so many or more, for so many scores at most (of 4 bytes).
MANY, LOOSE, MOST_SCORES = 4, 8, 16_000_000


def is_for_scan(*, queries: int, rows: int, left: int) -> bool:
    """Where it is faster: a single query, which FAISS gives one thread, or many with a loose filter.

    FAISS takes the queries of a filtered search one after the other, and looks at each row for each.
    """
    if left == rows:
        return queries == 1
    return queries >= MANY and left * LOOSE >= rows and queries * rows <= MOST_SCORES


def scanned(queries: Vectors, matrix: Vectors, *, k: int, allowed: Mask | None = None) -> Ranked:
    """The `k` rows of `matrix` [n, dim], n >= k > 0, with the largest inner product with each of `queries` [q, dim].

    `allowed` [n]: rows that may come back; at least k are.
    """
    scores = (matrix @ queries[0])[None] if len(queries) == 1 else queries @ matrix.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    rows = np.argpartition(scores, -k, axis=1)[:, -k:]
    best = np.take_along_axis(scores, rows, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
