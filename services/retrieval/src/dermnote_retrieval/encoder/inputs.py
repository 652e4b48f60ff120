"""What both encoders feed their towers with: pixels and tokens, made without torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from dermnote_contracts.manifest import Preprocessing

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


def pixels_of(images: Sequence[Image.Image], how: Preprocessing) -> npt.NDArray[np.float32]:
    """n RGB images, n > 0, as float32 [n, 3, size, size]."""
    return np.stack([preprocess(image, how) for image in images])


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
