"""Exact search as one matrix product and a partition: where NumPy's BLAS is faster than FAISS's kernels."""

import numpy as np
import threadpoolctl

from dermnote_retrieval.index.faiss_backend import Mask, Ranked
from dermnote_retrieval.index.types import Vectors

# From so many queries on, with a filter that keeps one row in so many or more, for so many scores at most (of 4 bytes).
MANY, LOOSE, MOST_SCORES = 4, 8, 16_000_000


def use_threads(threads: int) -> None:
    """How many threads the process' BLAS libraries use at most, whoever calls."""
    threadpoolctl.threadpool_limits(threads, user_api="blas")


def is_for_scan(*, queries: int, rows: int, left: int) -> bool:
    """Where it is faster: a single query of everything, which FAISS gives one thread, and many of most rows.

    FAISS takes the queries of a filtered search one after the other. Without a filter it multiplies block by block, and
    where other work keeps the cores busy its threads wait for each other at each block: alone it is as fast, then it
    takes four times as long.
    """
    if queries == 1:
        return left == rows
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
