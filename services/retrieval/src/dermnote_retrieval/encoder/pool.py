"""An encoder behind a bounded pool of threads: callers wait, big requests go in small batches so that none starves.

The seam for shared batching: whoever later joins concurrent requests into one batch does it here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image

from dermnote_contracts.manifest import ModelManifest
from dermnote_retrieval.encoder.protocol import Encoder, Vectors

BATCH = 16
T = TypeVar("T")


class PooledEncoder:
    """An Encoder that runs another one in its own threads."""

    def __init__(self, encoder: Encoder, *, threads: int) -> None:
        self._encoder = encoder
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="encoder")

    @property
    def manifest(self) -> ModelManifest:
        return self._encoder.manifest

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        return self._in_batches(self._encoder.encode_images, images, width=self.manifest.image_dim)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return self._in_batches(self._encoder.encode_texts, texts, width=self.manifest.text_dim)

    def _in_batches(self, encode: Callable[[Sequence[T]], Vectors], inputs: Sequence[T], *, width: int) -> Vectors:
        starts = range(0, len(inputs), BATCH)
        futures = [self._pool.submit(encode, inputs[start : start + BATCH]) for start in starts]
        parts = [future.result() for future in futures]
        return np.concatenate(parts) if parts else np.empty((0, width), np.float32)
