"""What all encoders share: the interface, the format of vectors in requests, model folders' base class, batching."""

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from dermnote_contracts.manifest import ModelManifest, Preprocessing
from dermnote_contracts.problems import InvalidRequest, ModelRefused
from dermnote_contracts.retrieval import MAX_VECTOR
from dermnote_imaging.decoder import RgbImage, fit, from_pixels
from dermnote_retrieval.runtime.batching import Batcher
from dermnote_retrieval.runtime.metrics import WorkMetrics

Vectors = npt.NDArray[np.float32]
TOKENIZER = "tokenizer.json"
BATCH = 16


class Encoder(Protocol):
    """Maps images and texts to unit vectors; thread-safe. Vectors of different `manifest.model_id`s are never mixed."""

    @property
    def manifest(self) -> ModelManifest:
        """The model's id, the widths of its vectors, and whether its towers are aligned."""
        ...

    def fit(self, image: RgbImage) -> RgbImage:
        """Resize and crop an image; its vector stays the same. Callers can do so in parallel before a batched call."""
        ...

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        ...

    def close(self) -> None:
        """Release resources such as threads; calls that are already running still finish."""
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
    """Convert any exception that a library raises for a model folder to ModelRefused with a one-line message."""
    try:
        yield
    except ModelRefused:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelRefused(f"{manifest.name}: {reason[0]}") from error


def read_vector(encoded: Sequence[float] | str, *, at: str) -> Vectors:
    """A request's vector, scaled to length 1 [dim]; raises InvalidRequest if it is malformed, zero or not finite."""
    values = _from_base64(encoded, at=at) if isinstance(encoded, str) else np.asarray(encoded, dtype=np.float64)
    if not 1 <= len(values) <= MAX_VECTOR:
        raise InvalidRequest.at(at, f"must have 1 to {MAX_VECTOR} values")
    (unit,) = unit_rows(values[None])
    if not np.isfinite(unit).all():
        raise InvalidRequest.at(at, "has no direction: its values must be finite, and not all zero")
    return np.asarray(unit)


def write_vector(vector: Vectors) -> str:
    """Base64 of a vector's little-endian float32 values."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _from_base64(text: str, *, at: str) -> npt.NDArray[np.float64]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest.at(at, "is neither a list of numbers nor base64") from error
    if len(raw) % 4:
        raise InvalidRequest.at(at, "is base64, but its length is not a multiple of float32's 4 bytes")
    return np.frombuffer(raw, "<f4").astype(np.float64)


def preprocess(image: RgbImage, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """An RGB image as float32 [3, size, size]: resized and cropped, 0..1, (x - mean) / std."""
    pixels = np.asarray(fit(image, preprocessing), dtype=np.float32) / 255
    normal = (pixels - np.asarray(preprocessing.mean, np.float32)) / np.asarray(preprocessing.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), dtype=np.float32)


class BatchTokenizer:
    """Maps texts to token ids, truncated to `context_tokens` and padded with `pad_id` to the longest of the batch."""

    def __init__(self, folder: Path, *, pad_id: int, context_tokens: int) -> None:
        self._pad_id = pad_id
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_truncation(max_length=context_tokens)
        self._tokenizer.enable_padding(pad_id=pad_id, pad_token=self._tokenizer.id_to_token(pad_id) or "[PAD]")

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """n texts, n > 0, as int64 [n, tokens]."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        return np.array([row or [self._pad_id] for row in rows], dtype=np.int64)


class FolderEncoder(ABC):
    """An Encoder loaded from a model folder; subclasses compute the vectors before normalisation."""

    _tokenize: BatchTokenizer

    def __init__(self, manifest: ModelManifest) -> None:
        self.manifest = manifest

    def fit(self, image: RgbImage) -> RgbImage:
        """The image resized and cropped."""
        return fit(image, self.manifest.preprocessing)

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        if not images:
            return np.empty((0, self.manifest.image_dim), np.float32)
        pixels = np.stack([preprocess(image, self.manifest.preprocessing) for image in images])
        return unit_rows(self._image_rows(pixels))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        if not texts:
            return np.empty((0, self.manifest.text_dim), np.float32)
        return unit_rows(self._text_rows(self._tokenize(texts)))

    def close(self) -> None:  # noqa: B027 - optional for subclasses
        """Nothing to release: everything is freed with the object."""

    @abstractmethod
    def _image_rows(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 [n, 3, size, size], n > 0, to [n, image_dim]."""

    @abstractmethod
    def _text_rows(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """int64 [n, tokens], n > 0, to [n, text_dim]."""


class BatchedEncoder:
    """An Encoder that batches concurrent calls to another one. `threads`: concurrent batches per kind (image, text)."""

    def __init__(self, encoder: Encoder, *, threads: int, work: WorkMetrics) -> None:
        self.manifest = encoder.manifest
        self.fit = encoder.fit
        encode_images = work.measured("encode-images", encoder.encode_images)
        encode_texts = work.measured("encode-texts", encoder.encode_texts)
        self._images: Batcher[RgbImage, Vectors] = Batcher(
            lambda images: list(encode_images(images)), max_size=BATCH, threads=threads, name="encode-images"
        )
        self._texts: Batcher[str, Vectors] = Batcher(
            lambda texts: list(encode_texts(texts)), max_size=BATCH, threads=threads, name="encode-texts"
        )

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        fitted = [self.fit(image) for image in images]  # in the callers' threads, in parallel
        return _rows(self._images(fitted), width=self.manifest.image_dim)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        return _rows(self._texts(texts), width=self.manifest.text_dim)

    def waiting(self) -> tuple[int, int]:
        """The number of images, and of texts, that no encoder call has taken yet."""
        return self._images.waiting(), self._texts.waiting()

    def close(self) -> None:
        """Answer waiting calls, then end the threads."""
        self._images.close()
        self._texts.close()


class ModelLoader:
    """Loads the models of a source as BatchedEncoders. `threads`: passed to each of them."""

    def __init__(self, source: ModelSource, *, threads: int, work: WorkMetrics) -> None:
        self.source = source
        self._threads = threads
        self._work = work

    def load(self, name: str) -> BatchedEncoder:
        """Raises UnknownModel or ModelRefused."""
        return BatchedEncoder(self.source.load(name), threads=self._threads, work=self._work)


def _rows(vectors: Sequence[Vectors], *, width: int) -> Vectors:
    return np.stack(vectors) if vectors else np.empty((0, width), np.float32)
