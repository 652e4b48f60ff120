"""The lesion's area in a picture: what differs in colour from the skin around it; or why no area can be trusted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import color, filters, measure, morphology

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

SIDE = 256
"""Pixels of the longer side that are measured."""
SKIN = np.array([0.40, 0.32, 0.28])
"""Share of red, green and blue in the skin that every picture is brought to: what colours are said relative to."""
LEAST_SIDE = 48
"""Of a picture that is measured, in pixels."""
HAIR = 0.06
"""How much darker than its surroundings (0..1) a line of at most six pixels must be to be hair."""
DARK_FIELD = 14.0
"""L* below which what reaches the picture's edge is the dermoscope's rim."""
FRAME = 0.12
"""Width of the frame that the skin is taken from, as a share of the picture."""
FEWEST, MOST = 0.015, 0.75
"""Share of the picture that a lesion covers."""
FITS = 4
"""Times that the skin is fitted."""
LEAST_SOLIDITY = 0.65
"""Share of its convex hull that an area fills; what fills less is patches that run together."""
LEAST_CONTRAST = 5.5
"""Median CIE76 distance from the skin that the lesion must have more than what is around it."""
MOST_CUT = 0.25
"""Share of its outline that may lie on the picture's edge."""


class NoLesion(Exception):
    """No area that could be measured; says why."""


@dataclass(frozen=True)
class Lesion:
    """A picture [h, w] with the lesion in it.

    `lab`: CIELAB as if under even light on skin of one hue, without hair [h, w, 3]; `area`: the lesion [h, w];
    `distance`: CIE76 from the `skin` [3] around it [h, w]; `seen`: picture and not the dermoscope's rim [h, w].
    """

    lab: Floats
    area: Bools
    distance: Floats
    skin: Floats
    seen: Bools

    @property
    def radius(self) -> float:
        """Of a disc of the same area, in pixels."""
        return float(np.sqrt(self.area.sum() / np.pi))

    @property
    def cut(self) -> float:
        """Share of the outline that lies on the edge of what is seen."""
        outline = self.area & ~ndimage.binary_erosion(self.area)
        inner = ndimage.binary_erosion(self.seen, iterations=2)
        return float((outline & ~inner).sum() / max(outline.sum(), 1))


def shrunk(picture: Image.Image) -> Image.Image:
    """RGB, the longer side at most SIDE: the size at which everything is measured."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return small


def find_lesion(picture: Image.Image) -> Lesion:
    """The lesion of an RGB picture. Raises NoLesion where nothing, or everything, stands out from the skin."""
    if min(picture.size) < LEAST_SIDE:
        raise NoLesion(f"the picture is too small; {LEAST_SIDE} pixels are the least")
    rgb = _without_hair(np.asarray(shrunk(picture), dtype=np.float64) / 255)
    seen = _seen(rgb)
    bare = _bare_skin(rgb, seen)
    brightness = float(np.median(bare.mean(axis=2)))
    lab = color.rgb2lab(np.clip(rgb / bare * (3 * brightness * SKIN), 0, 1))
    skin = color.rgb2lab(np.clip(3 * brightness * SKIN, 0, 1))
    distance = np.linalg.norm(filters.gaussian(lab, sigma=1, channel_axis=2) - skin, axis=2)
    area = _area(distance, seen)
    lesion = Lesion(lab, area, distance, skin, seen)
    _refuse_doubtful(lesion)
    return lesion


def _without_hair(rgb: Floats) -> Floats:
    """Thin dark lines filled from their surroundings, as DullRazor does (Lee et al. 1997)."""
    closed = np.stack([morphology.closing(rgb[..., band], morphology.disk(3)) for band in range(3)], axis=2)
    lines = (closed - rgb).max(axis=2) > HAIR
    # A lesion's own texture is dark and small too, but not a long line.
    long = morphology.remove_small_objects(morphology.skeletonize(lines), max_size=SIDE // 8, connectivity=2)
    hair = ndimage.binary_propagation(long, mask=lines)
    return np.where(ndimage.binary_dilation(hair)[..., None], closed, rgb)


def _seen(rgb: Floats) -> Bools:
    """Without the dark corners and rims of a dermoscope."""
    dark = color.rgb2lab(rgb)[..., 0] < DARK_FIELD
    edge = np.zeros_like(dark)
    edge[[0, -1], :] = edge[:, [0, -1]] = True
    rim = ndimage.binary_propagation(dark & edge, mask=dark)
    seen: Bools = ~ndimage.binary_dilation(rim, iterations=5)
    if seen.mean() < FEWEST:
        raise NoLesion("the picture is black")
    return seen


def _bare_skin(rgb: Floats, seen: Bools) -> Floats:
    """How the skin would look everywhere [h, w, 3]: its colour and the light on it, a quadratic in the logarithm.

    Fitted to a frame along the edge of what is seen, again and again without what is darker or much lighter than the
    fit, which are hairs, spots and the parts of the lesion that reach there (after Cavalcanti and Scharcanski 2011).
    """
    width = max(2, round(FRAME * min(seen.shape)))
    frame = seen & ~ndimage.binary_erosion(np.pad(seen, 1), iterations=width)[1:-1, 1:-1]
    rows, columns = (2 * np.indices(seen.shape).T / (np.array(seen.shape) - 1) - 1).T
    terms = np.stack([np.ones_like(rows), rows, columns, rows**2, columns**2, rows * columns], axis=2)
    logs = np.log(np.maximum(rgb, 1 / 255))
    kept = np.flatnonzero(frame)
    for _ in range(FITS):
        weights, *_ = np.linalg.lstsq(terms.reshape(-1, 6)[kept], logs.reshape(-1, 3)[kept], rcond=None)
        off = (logs.reshape(-1, 3)[kept] - terms.reshape(-1, 6)[kept] @ weights).mean(axis=1)
        spread = np.median(np.abs(off)) + 1e-3
        near = (off > -1.5 * spread) & (off < 3 * spread)
        kept = kept[near]
    bare: Floats = np.exp(terms @ weights)
    return bare


def _area(distance: Floats, seen: Bools) -> Bools:
    """The part that stands out by Otsu's threshold, is large, and lies in the middle."""
    smooth = filters.gaussian(distance, sigma=2)
    standing_out = (smooth > filters.threshold_otsu(smooth[seen])) & seen
    tidy = morphology.closing(morphology.opening(standing_out, morphology.disk(2)), morphology.disk(4))
    filled = ndimage.binary_fill_holes(tidy)
    parts = measure.label(filled)
    if parts.max() == 0:
        raise NoLesion("nothing stands out from the skin")
    middle = (np.array(seen.shape) - 1) / 2
    weight = np.exp(-2 * np.sum(((np.indices(seen.shape).T - middle) / middle) ** 2, axis=2).T)
    sums = np.bincount(parts.ravel(), weights=weight.ravel())
    sums[0] = 0
    area: Bools = parts == int(sums.argmax())
    return area


def _refuse_doubtful(lesion: Lesion) -> None:
    share = lesion.area.sum() / lesion.seen.sum()
    if share < FEWEST:
        raise NoLesion("what stands out from the skin is too small")
    if share > MOST:
        raise NoLesion("the lesion fills the picture, so there is no skin to tell it from")
    if lesion.area.sum() < LEAST_SOLIDITY * morphology.convex_hull_image(lesion.area).sum():
        raise NoLesion("what stands out from the skin is ragged patches and no lesion")
    if lesion.cut > MOST_CUT:
        raise NoLesion("what stands out from the skin runs out of the picture")
    outside = lesion.seen & ~lesion.area
    if np.median(lesion.distance[lesion.area]) - np.median(lesion.distance[outside]) < LEAST_CONTRAST:
        raise NoLesion("the lesion hardly differs from the skin")
