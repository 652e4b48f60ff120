"""An encoder whose concurrent callers share its calls: images, or texts, that arrive together form a batch."""

from collections.abc import Sequence

import numpy as np

from dermnote_contracts.manifest import ModelManifest
from dermnote_imaging.decoder import RgbImage
from dermnote_retrieval.encoder.protocol import Encoder, ModelSource, Vectors
from dermnote_retrieval.runtime.batching import Batcher
from dermnote_retrieval.runtime.measurements import WorkMetrics

BATCH = 16


class BatchedEncoder:
    """An Encoder that wraps another one. `threads`: concurrent calls of the wrapped encoder."""

    def __init__(self, encoder: Encoder, *, threads: int, work: WorkMetrics) -> None:
        self._encoder = encoder
        encode_images = work.measured("encode-images", encoder.encode_images)
        encode_texts = work.measured("encode-texts", encoder.encode_texts)
        self._images: Batcher[RgbImage, Vectors] = Batcher(
            lambda images: list(encode_images(images)), max_size=BATCH, threads=threads, name="encode-images"
        )
        self._texts: Batcher[str, Vectors] = Batcher(
            lambda texts: list(encode_texts(texts)), max_size=BATCH, threads=threads, name="encode-texts"
        )

    @property
    def manifest(self) -> ModelManifest:
        return self._encoder.manifest

    def fit(self, image: RgbImage) -> RgbImage:
        return self._encoder.fit(image)

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        fitted = [self.fit(image) for image in images]  # in the callers' threads, in parallel
        return _rows(self._images(fitted), width=self._encoder.manifest.image_dim)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        return _rows(self._texts(texts), width=self._encoder.manifest.text_dim)

    def waiting(self) -> tuple[int, int]:
        """Number of (images, texts) that no call has taken yet."""
        return self._images.waiting(), self._texts.waiting()

    def close(self) -> None:
        """Answer waiting calls, then end the threads."""
        self._images.close()
        self._texts.close()


class ModelLoader:
    """Loads the models of a source as BatchedEncoders. `threads`: of each."""

    def __init__(self, source: ModelSource, *, threads: int, work: WorkMetrics) -> None:
        self.source = source
        self._threads = threads
        self._work = work

    def load(self, name: str) -> BatchedEncoder:
        """Raises UnknownModel or ModelRefused."""
        return BatchedEncoder(self.source.load(name), threads=self._threads, work=self._work)


def _rows(vectors: Sequence[Vectors], *, width: int) -> Vectors:
    return np.stack(vectors) if vectors else np.empty((0, width), np.float32)
