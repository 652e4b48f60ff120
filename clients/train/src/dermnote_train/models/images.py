"""Decodes images once into small uint8 tensors, with the same pixels as in the retrieval service.

Follows dermnote_contracts.manifest.Preprocessing up to the scaling to 0..1, which the model does itself.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dermnote_contracts.manifest import Preprocessing
from dermnote_contracts.problems import ImageRefused
from dermnote_imaging.decoder import BOUND_PX, RgbImage, fit
from dermnote_train.data.images import decode_file
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.progress import Report, silent, track

MAX_BYTES = 8 * 2**30
DECODING_THREADS = 4


def decode(records: Sequence[Record], *, preprocessing: Preprocessing, progress: Report = silent) -> Tensor:
    """All images as one uint8 tensor [n, 3, size, size]: 3 * size² bytes each, 49 kB at 128 px.

    Raises UserError for a missing or unreadable image, or if the tensor would exceed MAX_BYTES.
    """
    size = preprocessing.image_size
    _check_memory(len(records), size=size)
    pixels = torch.empty((len(records), 3, size, size), dtype=torch.uint8)
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        decoded = pool.map(lambda record: _decode_file(record, preprocessing=preprocessing), records)
        tracked = track(decoded, stage="decode images", total=len(records), progress=progress)
        for row, image in enumerate(tracked):
            pixels[row] = torch.from_numpy(image)
    return pixels


def preprocess(image: RgbImage, *, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """An RGB image, shorter side resized to image_size, centre crop -> uint8 [3, size, size]."""
    return np.asarray(fit(image, preprocessing), dtype=np.uint8).transpose(2, 0, 1).copy()


def _decode_file(record: Record, *, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    try:
        image = decode_file(record.image_path, bound_px=BOUND_PX)
    except FileNotFoundError as error:
        raise UserError(_unreadable(record.image_path, record, "the file does not exist")) from error
    except OSError as error:
        raise UserError(_unreadable(record.image_path, record, f"it cannot be read ({error.strerror})")) from error
    except ImageRefused as error:
        raise UserError(_unreadable(record.image_path, record, error.detail)) from error
    return preprocess(image, preprocessing=preprocessing)


def _unreadable(path: Path, record: Record, reason: str) -> str:
    return f"image {record.image_id}: {path}: {reason}; fix the file or remove its row from the CSV"


def _check_memory(count: int, *, size: int) -> None:
    needed = count * 3 * size * size
    if needed > MAX_BYTES:
        limit = MAX_BYTES // (3 * size * size)
        raise UserError(
            f"{count} images at {size} px need {needed / 2**30:.1f} GiB of memory; use at most {limit} (--limit) "
            "or a smaller image size"
        )
