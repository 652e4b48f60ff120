"""The base of the encoders of model folders: pixels and tokens without torch, and unit vectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from dermnote_contracts.manifest import ModelManifest, Preprocessing
from dermnote_imaging.decoder import RgbImage
from dermnote_imaging.preprocessing import fit
from dermnote_retrieval.encoder.protocol import Vectors, unit_rows

TOKENIZER = "tokenizer.json"


def preprocess(image: RgbImage, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """An RGB image as float32 [3, size, size]: resized and cropped, 0..1, (x - mean) / std."""
    pixels = np.asarray(fit(image, preprocessing), dtype=np.float32) / 255
    normal = (pixels - np.asarray(preprocessing.mean, np.float32)) / np.asarray(preprocessing.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), dtype=np.float32)


class BatchTokenizer:
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
    """An Encoder of a model folder; subclasses compute the rows."""

    _tokenize: BatchTokenizer

    def __init__(self, manifest: ModelManifest) -> None:
        self._manifest = manifest

    @property
    def manifest(self) -> ModelManifest:
        return self._manifest

    def fit(self, image: RgbImage) -> RgbImage:
        """The image resized and cropped."""
        return fit(image, self._manifest.preprocessing)

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """RGB images to float32 unit rows [n, image_dim]."""
        if not images:
            return np.empty((0, self._manifest.image_dim), np.float32)
        return unit_rows(
            self._image_rows(np.stack([preprocess(image, self._manifest.preprocessing) for image in images]))
        )

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts to float32 unit rows [n, text_dim]."""
        if not texts:
            return np.empty((0, self._manifest.text_dim), np.float32)
        return unit_rows(self._text_rows(self._tokenize(texts)))

    def close(self) -> None:  # noqa: B027 - optional for subclasses
        """Nothing to release: everything is freed with the object."""

    @abstractmethod
    def _image_rows(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 [n, 3, size, size], n > 0, to [n, image_dim]."""

    @abstractmethod
    def _text_rows(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """int64 [n, tokens], n > 0, to [n, text_dim]."""
