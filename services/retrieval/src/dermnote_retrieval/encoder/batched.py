"""An encoder whose concurrent callers share its calls: images that arrive together are encoded together, texts too."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dermnote_contracts.manifest import ModelManifest
from dermnote_retrieval.encoder.protocol import Encoder, ModelSource, Vectors
from dermnote_retrieval.runtime.batching import Batcher
from dermnote_retrieval.runtime.work import Work

BATCH = 16


class BatchedEncoder:
    """An Encoder over another one. `threads`: calls of that one that run at a time."""

    def __init__(self, encoder: Encoder, *, threads: int, work: Work) -> None:
        self._encoder = encoder
        encode_images = work.timed("encode-images", encoder.encode_images)
        encode_texts = work.timed("encode-texts", encoder.encode_texts)
        self._images: Batcher[Image.Image, Vectors] = Batcher(
            lambda images: list(encode_images(images)), most=BATCH, threads=threads, name="encode-images"
        )
        self._texts: Batcher[str, Vectors] = Batcher(
            lambda texts: list(encode_texts(texts)), most=BATCH, threads=threads, name="encode-texts"
        )

    @property
    def manifest(self) -> ModelManifest:
        """The encoder's own."""
        return self._encoder.manifest

    def fit(self, image: Image.Image) -> Image.Image:
        """The encoder's own."""
        return self._encoder.fit(image)

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        fitted = [self.fit(image) for image in images]  # here, so that callers do it at the same time
        return _rows(self._images(fitted), width=self._encoder.manifest.image_dim)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        return _rows(self._texts(texts), width=self._encoder.manifest.text_dim)

    def waiting(self) -> tuple[int, int]:
        """(images, texts) that no call has taken yet."""
        return self._images.waiting(), self._texts.waiting()

    def close(self) -> None:
        """End its threads once what waits is done."""
        self._images.close()
        self._texts.close()


class BatchedModels:
    """The models of another source, each loaded as a BatchedEncoder. `threads`: of each."""

    def __init__(self, source: ModelSource, *, threads: int, work: Work) -> None:
        self._source = source
        self._threads = threads
        self._work = work

    @property
    def default(self) -> str:
        """The source's own."""
        return self._source.default

    def manifests(self) -> list[ModelManifest]:
        """Every model that can be loaded, sorted by name."""
        return self._source.manifests()

    def manifest(self, name: str) -> ModelManifest:
        """Raises UnknownModel or ModelRefused."""
        return self._source.manifest(name)

    def load(self, name: str) -> Encoder:
        """Raises UnknownModel or ModelRefused."""
        return BatchedEncoder(self._source.load(name), threads=self._threads, work=self._work)


def _rows(vectors: Sequence[Vectors], *, width: int) -> Vectors:
    return np.stack(vectors) if vectors else np.empty((0, width), np.float32)
