"""What the encoders of model folders share: pixels and tokens, made without torch, and rows made to unit vectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from dermnote_contracts.manifest import ModelManifest, Preprocessing
from dermnote_retrieval.encoder.protocol import Vectors, unit_rows

TOKENIZER = "tokenizer.json"
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def fit(image: Image.Image, how: Preprocessing) -> Image.Image:
    """An RGB image, shorter side to `image_size`, centre crop; one of that size stays as it is."""
    size, (width, height) = how.image_size, image.size
    short, long = min(width, height), max(width, height)
    scaled = (size, int(size * long / short)) if width <= height else (int(size * long / short), size)
    image = image.convert("RGB").resize(scaled, _RESAMPLING[how.interpolation])
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))


def preprocess(image: Image.Image, how: Preprocessing) -> npt.NDArray[np.float32]:
    """An RGB image as float32 [3, size, size]: fitted, 0..1, (x - mean) / std."""
    pixels = np.asarray(fit(image, how), dtype=np.float32) / 255
    normal = (pixels - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), dtype=np.float32)


class TokenReader:
    """Texts to token ids, cut at `context_tokens`, padded to the longest with `pad_id`."""

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
    """An Encoder of a model folder; what computes the rows is a subclass's."""

    _tokens: TokenReader

    def __init__(self, manifest: ModelManifest) -> None:
        self._manifest = manifest

    @property
    def manifest(self) -> ModelManifest:
        """As it lies in the folder."""
        return self._manifest

    def fit(self, image: Image.Image) -> Image.Image:
        """Scaled and cropped."""
        return fit(image, self._manifest.preprocessing)

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        if not images:
            return np.empty((0, self._manifest.image_dim), np.float32)
        return unit_rows(
            self._image_rows(np.stack([preprocess(each, self._manifest.preprocessing) for each in images]))
        )

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        if not texts:
            return np.empty((0, self._manifest.text_dim), np.float32)
        return unit_rows(self._text_rows(self._tokens(texts)))

    def close(self) -> None:  # noqa: B027 - for both there is nothing to do
        """Nothing to let go of: all goes with the object."""

    @abstractmethod
    def _image_rows(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 [n, 3, size, size], n > 0, to [n, image_dim]."""

    @abstractmethod
    def _text_rows(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """int64 [n, tokens], n > 0, to [n, text_dim]."""
