"""What an encoder is, and what gives encoders by name."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from dermnote_contracts.manifest import ModelManifest

Vectors = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Thread-safe. Vectors of two encoders with different `manifest.model_id` never mix."""

    @property
    def manifest(self) -> ModelManifest:
        """Identity, widths and alignment."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        ...

    def close(self) -> None:
        """Let go of what serving needs and who still encodes can do without (threads)."""
        ...


class ModelSource(Protocol):
    """Models by name."""

    @property
    def default(self) -> str:
        """The name to serve when nothing else says which."""
        ...

    def manifests(self) -> list[ModelManifest]:
        """Every model that can be loaded, sorted by name."""
        ...

    def manifest(self, name: str) -> ModelManifest:
        """Raises UnknownModel or ModelRefused."""
        ...

    def load(self, name: str) -> Encoder:
        """Raises UnknownModel or ModelRefused."""
        ...


def unit_rows(rows: npt.NDArray[np.floating]) -> Vectors:
    """Rows [n, d] scaled to length 1, as float32. A row without direction (zero, not finite) becomes NaN."""
    wide = np.asarray(rows, dtype=np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = wide / largest
        rows_of_length_one: Vectors = (scaled / np.linalg.norm(scaled, axis=1, keepdims=True)).astype(np.float32)
    return rows_of_length_one
