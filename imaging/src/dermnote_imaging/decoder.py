"""The image decoder: JPEG, PNG or WebP bytes to an upright RGB image, within limits on bytes and pixels.

Formats are recognised by their first bytes and opened by Pillow's plugins directly. `Image.open` would try formats
outside the allow-list, and its decompression bomb check depends on the process's warning filters.
"""

import io
import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dermnote_contracts.manifest import Preprocessing
from dermnote_contracts.problems import ImageRefused

RgbImage = Image.Image
Pixels = npt.NDArray[np.uint8]
BOUND_PX = 512
"""Default limit of a decoded image's longer side."""

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_PLUGINS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
)
# Exceptions that Pillow's plugins raise on damaged or hostile bytes.
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
    """Limits of an upload (`max_bytes`, `max_pixels`) and of the decoded image's longer side (`bound_px`)."""

    max_bytes: int
    max_pixels: int
    bound_px: int = BOUND_PX


@dataclass(frozen=True)
class ImageHeader:
    """Format (JPEG, PNG or WEBP), size and Pillow's mode of an image file, read without decoding it."""

    format: str
    width: int
    height: int
    mode: str


class Decoder:
    """Decodes uploads for many threads, `concurrency` at a time; each upload takes 3 to 4 bytes of memory per pixel."""

    def __init__(self, limits: ImageLimits, *, concurrency: int) -> None:
        self.limits = limits
        self._slots = threading.BoundedSemaphore(concurrency)

    def decode(self, upload: bytes | IO[bytes]) -> RgbImage:
        """An upright RGB image; a file object is read only when its decoding starts. Raises ImageRefused."""
        with self._slots:
            data = upload if isinstance(upload, bytes) else upload.read()
            return decode(data, max_pixels=self.limits.max_pixels, bound_px=self.limits.bound_px)


def decode(data: bytes, *, max_pixels: int, bound_px: int = BOUND_PX) -> RgbImage:
    """An upright RGB image without metadata, its longer side at most `bound_px`; raises ImageRefused."""
    try:
        _verify(data, max_pixels=max_pixels)
        with _open(io.BytesIO(data)) as image:
            image.draft(None, (2 * bound_px, 2 * bound_px))  # much faster: decodes a large JPEG at a reduced scale
            image.load()
            upright = _rgb(ImageOps.exif_transpose(image))
    except _DECODING_ERRORS as error:
        raise ImageRefused("the image is damaged or incomplete") from error
    upright.thumbnail((bound_px, bound_px), Image.Resampling.LANCZOS)
    return upright


def read_header(source: bytes | Path) -> ImageHeader:
    """Format and size of an image; raises ImageRefused, and OSError for a path that cannot be opened."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        try:
            with _open(file) as image:
                return ImageHeader(image.format or "", *image.size, image.mode)
        except _DECODING_ERRORS as error:
            raise ImageRefused("the image header is damaged or incomplete") from error


def _verify(data: bytes, *, max_pixels: int) -> None:
    """Check the header before anything is decoded, then let Pillow verify what it can (PNG checksums)."""
    with _open(io.BytesIO(data)) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageRefused(f"{width}x{height} pixels exceed the limit of {max_pixels} pixels")
        if getattr(image, "is_animated", False):
            raise ImageRefused("animated images are not supported; send one frame")
        image.verify()


def _open(file: IO[bytes]) -> ImageFile:
    start = file.read(12)
    file.seek(0)
    for signature, plugin in _PLUGINS:
        if start.startswith(signature) and (plugin is not WebPImageFile or start.endswith(b"WEBP")):
            return plugin(file)
    raise ImageRefused("not a JPEG, PNG or WebP image" if start else "the file is empty")


def _rgb(image: Image.Image) -> RgbImage:
    if image.mode.startswith("I"):  # 16 bits per pixel: Pillow's own conversion would clip at 255
        high = np.asarray(image).astype(np.uint32) // 257
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    # A new image from the pixels alone, without the EXIF data, comments and colour profiles in `image.info`.
    return Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())


def fit(image: RgbImage, preprocessing: Preprocessing) -> RgbImage:
    """Resize the shorter side to `image_size` and crop the centre; an image that has this size is unchanged."""
    size, (width, height) = preprocessing.image_size, image.size
    short, long = min(width, height), max(width, height)
    scaled = (size, int(size * long / short)) if width <= height else (int(size * long / short), size)
    image = image.convert("RGB").resize(scaled, _RESAMPLING[preprocessing.interpolation])
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))


def shrink(image: RgbImage, *, side: int) -> RgbImage:
    """A copy whose longer side is at most `side`; a smaller image is not enlarged."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def cell_means(image: RgbImage, *, width: int, height: int) -> Pixels:
    """The mean colour of each cell of a grid over the image, uint8 [height, width, 3], or [height, width] if gray."""
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def from_pixels(pixels: Pixels) -> RgbImage:
    """An image from a uint8 array: RGB from [height, width, 3], gray from [height, width]."""
    return Image.fromarray(pixels)
