"""An encoder without weights, for trying out and testing the service: it derives vectors from colours and words.

Images become shares of named colours. Texts become hashed word counts; in the aligned variants a colour's name maps to
that colour's dimension, so that "red lesion" finds red images.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np

from dermnote_contracts.manifest import ModelManifest, Preprocessing
from dermnote_contracts.problems import UnknownModel
from dermnote_imaging.decoder import RgbImage, cell_means
from dermnote_retrieval.encoder.base import Encoder, Vectors, unit_rows

COLOURS: Final = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "brown": (128, 72, 32),
    "gray": (128, 128, 128),
}
_PALETTE = np.array(list(COLOURS.values()), dtype=np.int32)
_DIMENSIONS = {name: dimension for dimension, name in enumerate(COLOURS)}
ALIGNED_DIMS = {"dummy-aligned": 64, "dummy-512": 512}
IMAGE_DIM = 24
TEXT_DIM = 96


def _manifest(name: str) -> ModelManifest:
    return ModelManifest(
        name=name,
        model_id=f"{name}-1",
        aligned=name in ALIGNED_DIMS,
        image_dim=ALIGNED_DIMS.get(name, IMAGE_DIM),
        text_dim=ALIGNED_DIMS.get(name, TEXT_DIM),
        context_tokens=512,
        preprocessing=Preprocessing(image_size=32, mean=(0, 0, 0), std=(1, 1, 1)),
        files={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        made_by="dermnote-retrieval",
    )


class DummyEncoder:
    """A deterministic Encoder. Images: colour shares, then mean colours of nine areas, cut or padded to `image_dim`."""

    def __init__(self, manifest: ModelManifest) -> None:
        self.manifest = manifest

    def fit(self, image: RgbImage) -> RgbImage:
        return image

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        rows = np.zeros((len(images), self.manifest.image_dim))
        for row, image in zip(rows, images, strict=True):
            pixels = cell_means(image, width=24, height=24).astype(np.int32)
            distances = ((pixels[:, :, None, :] - _PALETTE) ** 2).sum(axis=-1)
            shares = np.bincount(distances.argmin(axis=-1).ravel(), minlength=len(COLOURS)) / 576
            fields = pixels.reshape(3, 8, 3, 8, 3).mean(axis=(1, 3)).ravel() / 2550
            values = np.concatenate([shares, fields])[: len(row)]
            row[: len(values)] = values
        return unit_rows(rows)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.manifest.text_dim))
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+|[^\w\s]", text.lower()):
                row[self._dimension(word)] += 5 if self.manifest.aligned and word in _DIMENSIONS else 1
        return unit_rows(rows)

    def close(self) -> None:
        """Nothing to release."""

    def _dimension(self, word: str) -> int:
        if self.manifest.aligned and word in _DIMENSIONS:
            return _DIMENSIONS[word]
        digest = hashlib.blake2b(word.encode("utf-8"), digest_size=4).digest()
        return len(COLOURS) + int.from_bytes(digest) % (self.manifest.text_dim - len(COLOURS))


class DummyModels:
    """A ModelSource of the dummy encoder's variants: `dummy` (not aligned), `dummy-aligned`, `dummy-512`."""

    default = "dummy"

    def __init__(self) -> None:
        self._manifests = {name: _manifest(name) for name in ("dummy", *ALIGNED_DIMS)}

    def manifests(self) -> list[ModelManifest]:
        return list(self._manifests.values())

    def manifest(self, name: str) -> ModelManifest:
        if name not in self._manifests:
            raise UnknownModel(f"no model {name}; available: {', '.join(self._manifests)}")
        return self._manifests[name]

    def load(self, name: str) -> Encoder:
        return DummyEncoder(self.manifest(name))
