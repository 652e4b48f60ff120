"""What an encoder is, and what gives encoders by name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from dermnote_contracts.manifest import ModelManifest
from dermnote_contracts.problems import ModelRefused

Vectors = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Thread-safe. Vectors of two encoders with different `manifest.model_id` never mix."""

    @property
    def manifest(self) -> ModelManifest:
        """Identity, widths and alignment."""
        ...

    def fit(self, image: Image.Image) -> Image.Image:
        """What a caller can do with a picture alone before it is encoded together with others: the same vector."""
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


def check_vectors(encoder: Encoder) -> None:
    """Encode an image and a text; raises ModelRefused where the vectors are not what the manifest says."""
    image = encoder.encode_images([Image.new("RGB", (64, 64), (200, 150, 120))])
    text = encoder.encode_texts(["a lesion"])
    manifest = encoder.manifest
    if (image.shape[1], text.shape[1]) != (manifest.image_dim, manifest.text_dim):
        raise ModelRefused(
            f"{manifest.name}: gives vectors of {image.shape[1]} and {text.shape[1]}, "
            f"the manifest says {manifest.image_dim} and {manifest.text_dim}"
        )
    if not (np.isfinite(image).all() and np.isfinite(text).all()):
        raise ModelRefused(f"{manifest.name}: the weights give vectors that are not finite")


@contextmanager
def refusing(manifest: ModelManifest) -> Iterator[None]:
    """Whatever a library makes of a foreign folder, as ModelRefused in one line."""
    try:
        yield
    except ModelRefused:
        raise
    except Exception as wrong:
        reason = str(wrong).strip().splitlines() or [type(wrong).__name__]
        raise ModelRefused(f"{manifest.name}: {reason[0]}") from wrong
