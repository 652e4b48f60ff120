"""Random clustered unit vectors: like the embeddings of a tower, dense in some regions and empty in others."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
DIM = 512
CLUSTERS = 2000
# Length of the noise around a centre of length 1: the cosine similarity of two vectors of a cluster is about 0.6.
SPREAD = 0.8
CHUNK = 2000
# The metadata's `share` is uniform over 0 to 9999, so that a filter on it can keep any share of the items.
SHARES = 10_000


def clustered(count: int, *, seed: int = 0) -> Iterator[Vectors]:
    """`count` unit vectors in chunks [n, DIM]; equal seeds give equal vectors."""
    centres = _unit(np.random.default_rng(7).normal(size=(CLUSTERS, DIM)))
    draw = np.random.default_rng(seed)
    # Some clusters have a hundred times as many vectors as others.
    weights = draw.pareto(1.2, CLUSTERS) + 0.05
    weights /= weights.sum()
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        noise = draw.normal(size=(size, DIM)) * (SPREAD / DIM**0.5)
        yield _unit(centres[draw.choice(CLUSTERS, size, p=weights)] + noise)


def _unit(rows: npt.NDArray[np.floating]) -> Vectors:
    unit: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def metadata(number: int) -> dict[str, Any]:
    """The metadata of an item; its values are uniform, so that a filter keeps a known share of the items."""
    share = (number * 7919) % SHARES
    return {"sex": ("female", "male")[number % 2], "age": 20 + number % 70, "share": share}


def keeping(share: float) -> dict[str, Any]:
    """A filter that keeps this share of all items."""
    return {"share": {"lte": round(share * SHARES) - 1}}


def lines(vectors: Vectors, *, first: int, model: str) -> bytes:
    """NDJSON of items with ready-made image vectors, numbered from `first` on."""
    packed = (base64.b64encode(row.tobytes()).decode() for row in vectors)
    items = (
        {"id": f"i{n}", "metadata": metadata(n), "group": f"p{n // 3}", "image_vector": text, "model": model}
        for n, text in enumerate(packed, start=first)
    )
    return "\n".join(map(json.dumps, items)).encode()
