"""The interfaces of encoders and model sources, and the checks that all encoders share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dermnote_contracts.manifest import ModelManifest
from dermnote_contracts.problems import ModelRefused
from dermnote_imaging.decoder import RgbImage
from dermnote_imaging.preprocessing import from_pixels

Vectors = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Thread-safe. Vectors of encoders with different `manifest.model_id` never mix."""

    @property
    def manifest(self) -> ModelManifest:
        """Identity, widths and alignment."""
        ...

    def fit(self, image: RgbImage) -> RgbImage:
        """The part of preprocessing that callers can do in parallel before a shared call; it keeps the vector."""
        ...

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        ...

    def close(self) -> None:
        """Release resources that running calls can do without (threads)."""
        ...


class ModelSource(Protocol):
    """Models by name."""

    @property
    def default(self) -> str:
        """The name of the model to serve by default."""
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
    """Rows [n, d] scaled to length 1, as float32. Rows without a direction (zero, not finite) become NaN."""
    wide = np.asarray(rows, dtype=np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = wide / largest
        unit: Vectors = (scaled / np.linalg.norm(scaled, axis=1, keepdims=True)).astype(np.float32)
    return unit


def check_vectors(encoder: Encoder) -> None:
    """Encode an image and a text; raises ModelRefused if the vectors contradict the manifest."""
    image = encoder.encode_images([from_pixels(np.full((64, 64, 3), (200, 150, 120), np.uint8))])
    text = encoder.encode_texts(["a lesion"])
    manifest = encoder.manifest
    if (image.shape[1], text.shape[1]) != (manifest.image_dim, manifest.text_dim):
        raise ModelRefused(
            f"{manifest.name}: the model's vectors have {image.shape[1]} and {text.shape[1]} values, "
            f"the manifest says {manifest.image_dim} and {manifest.text_dim}"
        )
    if not (np.isfinite(image).all() and np.isfinite(text).all()):
        raise ModelRefused(f"{manifest.name}: the weights yield vectors that are not finite")


@contextmanager
def loading_errors(manifest: ModelManifest) -> Iterator[None]:
    """Raise any error of a library about a model folder as ModelRefused with one line."""
    try:
        yield
    except ModelRefused:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelRefused(f"{manifest.name}: {reason[0]}") from error
