"""Uploaded pictures made safe: decoded from an allow-list within limits, turned upright, stripped, bounded.

Knows bytes and Pillow images, nothing of items or encoders. Animated PNG and WebP are refused; a multi-picture JPEG
(as telephones write) counts as its first picture.
"""

import io
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dermnote_contracts.problems import ImageRefused

FORMATS = ("JPEG", "PNG", "WEBP")
THUMBNAIL_PX = 160
THUMBNAIL_TYPE = "image/jpeg"

# What Pillow's decoders raise on hostile bytes; its warnings (decompression bomb) count as errors.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    AttributeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Warning,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageLimits:
    """What an upload may be (`max_bytes`, `max_pixels`) and what is kept of it (`bound_px`, longer side)."""

    max_bytes: int
    max_pixels: int
    bound_px: int


@dataclass(frozen=True)
class Picture:
    """An image as it is stored: JPEG bytes without any metadata, bounded, and its thumbnail.

    `signs`: 64 signs of its brightness' gradients, as a signed number (difference hash); near-duplicates differ in few.
    """

    image: bytes
    thumbnail: bytes
    signs: int


class Decoder:
    """Decodes uploads for many threads, `at_once` at a time: pixels are what takes memory, 3 to 4 bytes each."""

    def __init__(self, limits: ImageLimits, *, at_once: int) -> None:
        self.limits = limits
        self._turns = threading.BoundedSemaphore(at_once)

    def decode(self, upload: bytes | IO[bytes]) -> Image.Image:
        """An upright RGB image; an open file is read only when its turn comes. Raises ImageRefused."""
        with self._turns:
            data = upload if isinstance(upload, bytes) else upload.read()
            return decode(data, max_pixels=self.limits.max_pixels, bound_px=self.limits.bound_px)

    def picture(self, upload: bytes | IO[bytes]) -> Picture:
        """An upload as what the store keeps; raises ImageRefused."""
        return store_form(self.decode(upload))


def decode(data: bytes, *, max_pixels: int, bound_px: int) -> Image.Image:
    """An upload as an upright RGB image, its longer side at most `bound_px`; raises ImageRefused."""
    if not data:
        raise ImageRefused("the file has zero bytes")
    try:
        _check(data, max_pixels=max_pixels)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft(None, (2 * bound_px, 2 * bound_px))  # a large JPEG is decoded smaller, which is much faster
            image.load()
            upright = _rgb(ImageOps.exif_transpose(image))
    except _DECODING_ERRORS as wrong:
        raise ImageRefused(_reason(wrong)) from wrong
    upright.thumbnail((bound_px, bound_px), Image.Resampling.LANCZOS)
    return upright


def store_form(image: Image.Image) -> Picture:
    """A decoded image as what the store keeps."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return Picture(
        image=_jpeg(image, quality=95, subsampling=0),
        thumbnail=_jpeg(small, quality=85, subsampling=2),
        signs=gradient_signs(image),
    )


def gradient_signs(image: Image.Image) -> int:
    """64 signs, one for each pair of neighbours in a row of 9 x 8 brightnesses, as a signed 64-bit number."""
    bright = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int(np.packbits(bright[:, 1:] > bright[:, :-1]).view(">i8")[0])


def open_stored(data: bytes) -> Image.Image:
    """The RGB image of bytes that store_form made."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return image.convert("RGB")


def _check(data: bytes, *, max_pixels: int) -> None:
    """Look at the header before anything is decoded, then let Pillow verify what it can (PNG checksums)."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageRefused(f"{width}x{height} pixels; at most {max_pixels} pixels are taken")
        if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
            raise ImageRefused("animated images are not taken; send one frame")
        image.verify()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip at 255
        high = np.asarray(image).astype(np.uint32) // 257
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    # A new image from the pixels alone: EXIF, comments and profiles stay behind in `image.info`.
    return Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())


def _jpeg(image: Image.Image, *, quality: int, subsampling: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()


def _reason(wrong: BaseException) -> str:
    if isinstance(wrong, UnidentifiedImageError):
        return "not a JPEG, PNG or WebP image"
    if isinstance(wrong, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too many pixels"
    return "the image is damaged or incomplete"
