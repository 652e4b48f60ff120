"""Pictures as the model sees them: decoded once, small, uint8. Knows Pillow; knows nothing of the model.

Pictures are turned upright, then follow dermnote_contracts.manifest.Preprocessing up to the scaling to 0..1, which the
model does itself.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as resizing

from dermnote_contracts.manifest import Preprocessing
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.progress import Report, Step, silent

MAX_BYTES = 8 * 2**30
DECODING_THREADS = 4


def decode(records: Sequence[Record], *, preprocessing: Preprocessing, progress: Report = silent) -> Tensor:
    """All pictures as one uint8 tensor [n, 3, size, size]: 3 * size² bytes each, 49 kB at 128 px.

    Raises UserError for a picture that is missing or can't be read, and when all together would pass MAX_BYTES.
    """
    size = preprocessing.image_size
    _refuse_too_much(len(records), size=size)
    pixels = torch.empty((len(records), 3, size, size), dtype=torch.uint8)
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        decoded = pool.map(lambda record: _decode_file(record, preprocessing=preprocessing), records)
        for done, picture in enumerate(decoded, start=1):
            pixels[done - 1] = torch.from_numpy(picture)
            progress(Step("decode images", done, len(records)))
    return pixels


def preprocess(picture: Image.Image, *, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """RGB, shorter side to image_size, centre crop -> uint8 [3, size, size]."""
    size = preprocessing.image_size
    resized = resizing.resize(
        picture.convert("RGB"), [size], interpolation=InterpolationMode(preprocessing.interpolation)
    )
    cropped = resizing.center_crop(resized, [size, size])
    return np.asarray(cropped, dtype=np.uint8).transpose(2, 0, 1).copy()


def _decode_file(record: Record, *, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    try:
        with Image.open(record.image_path) as picture:
            return preprocess(ImageOps.exif_transpose(picture), preprocessing=preprocessing)
    except FileNotFoundError as wrong:
        raise UserError(_unreadable(record.image_path, record, "there is no such file")) from wrong
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as wrong:
        raise UserError(_unreadable(record.image_path, record, "it is not an image that can be read")) from wrong


def _unreadable(path: Path, record: Record, why: str) -> str:
    return f"image {record.image_id}: {path}: {why}; mend the file or take its row out of the CSV"


def _refuse_too_much(count: int, *, size: int) -> None:
    needed = count * 3 * size * size
    if needed > MAX_BYTES:
        most = MAX_BYTES // (3 * size * size)
        raise UserError(
            f"{count} images at {size} px need {needed / 2**30:.1f} GiB of memory; take at most {most} (--limit) "
            "or a smaller image size"
        )
