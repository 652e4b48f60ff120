"""Resizing and cropping of decoded images to the input size of a model, and conversion from and to pixel arrays."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from dermnote_contracts.manifest import Preprocessing
from dermnote_imaging.decoder import RgbImage

Pixels = npt.NDArray[np.uint8]
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def fit(image: RgbImage, preprocessing: Preprocessing) -> RgbImage:
    """Resize the shorter side to `image_size` and crop the centre; an image of that size stays as it is."""
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
    """The mean colour of each cell of a grid over the image, uint8 [height, width, 3] ([height, width] in gray)."""
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def from_pixels(pixels: Pixels) -> RgbImage:
    """The image of an array uint8 [height, width, 3], or a gray one of [height, width]."""
    return Image.fromarray(pixels)
