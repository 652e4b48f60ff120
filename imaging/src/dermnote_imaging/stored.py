"""The form in which the retrieval service stores an image: a JPEG without metadata, its thumbnail and its hash."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dermnote_imaging.decoder import RgbImage, shrink

THUMBNAIL_PX = 160
THUMBNAIL_TYPE = "image/jpeg"


@dataclass(frozen=True)
class StoredImage:
    """An image as it is stored: JPEG bytes without metadata, a thumbnail, and the difference hash."""

    jpeg: bytes
    thumbnail: bytes
    difference_hash: int

    @classmethod
    def of(cls, image: RgbImage) -> "StoredImage":
        """The stored form of a decoded image."""
        return cls(
            jpeg=_jpeg(image, quality=95, subsampling=0),
            thumbnail=_jpeg(shrink(image, side=THUMBNAIL_PX), quality=85, subsampling=2),
            difference_hash=difference_hash(image),
        )


def open_stored(jpeg: bytes) -> RgbImage:
    """The RGB image of a StoredImage's JPEG."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return image.convert("RGB")


def difference_hash(image: RgbImage) -> int:
    """The 64-bit difference hash (dHash), as a signed integer; the hashes of near-duplicates differ in few bits.

    A bit is 1 if a cell of a 9 x 8 grid is brighter than its left neighbour.
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int(np.packbits(grey[:, 1:] > grey[:, :-1]).view(">i8")[0])


def _jpeg(image: RgbImage, *, quality: int, subsampling: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()
