"""Lesion segmentation by colour difference from the surrounding skin; rejects doubtful results with a reason."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, filters, measure, morphology

from dermnote_imaging.decoder import RgbImage, shrink

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

SIDE = 256  # longer side in pixels to which images are reduced before they are measured
SKIN = np.array([0.40, 0.32, 0.28])
"""Share of red, green and blue in the reference skin to which every image is normalised."""
MIN_SIDE = 48  # images whose shorter side has fewer pixels are rejected
HAIR = 0.06  # a dark line, up to six pixels wide, is hair if it differs this much (0..1) from its surroundings
DARK_FIELD = 14.0  # L* below which a region that touches the image's edge is the dermoscope's rim
FRAME = 0.12  # width of the frame from which the skin is sampled, as a share of the image
MIN_AREA, MAX_AREA = 0.015, 0.75  # limits of the share of the image that a lesion covers
FITS = 4  # iterations of the skin fit
MIN_SOLIDITY = 0.65  # share of its convex hull that a lesion fills; less indicates merged patches
MIN_CONTRAST = 5.5  # how much larger the median CIE76 distance from the skin must be inside the lesion than outside
MAX_CUT = 0.25  # share of the outline that may lie on the edge of the visible area


class LesionNotFound(Exception):
    """No measurable lesion; the message is the reason."""


@dataclass(frozen=True)
class Lesion:
    """A segmented lesion in an image [h, w].

    `lab`: CIELAB normalised to even light and the reference skin, without hair [h, w, 3]; `area`: mask of the lesion
    [h, w]; `skin`: the reference skin at the image's brightness [3]; `distance`: CIE76 from `skin` [h, w]; `visible`:
    mask without the dermoscope's rim [h, w].
    """

    lab: Floats
    area: Bools
    distance: Floats
    skin: Floats
    visible: Bools

    @property
    def radius(self) -> float:
        """Radius in pixels of a disc of the same area."""
        return float(np.sqrt(self.area.sum() / np.pi))

    @property
    def cut(self) -> float:
        """Share of the outline that lies on the edge of the visible area."""
        outline = self.area & ~ndimage.binary_erosion(self.area)
        inner = ndimage.binary_erosion(self.visible, iterations=2)
        return float((outline & ~inner).sum() / max(outline.sum(), 1))


def find_lesion(image: RgbImage) -> Lesion:
    """Segment the lesion of an RGB image. Raises LesionNotFound if no lesion can be measured."""
    if min(image.size) < MIN_SIDE:
        raise LesionNotFound(f"the image is too small; at least {MIN_SIDE} pixels are needed")
    rgb = _without_hair(np.asarray(shrink(image, side=SIDE), dtype=np.float64) / 255)
    visible = _visible(rgb)
    bare = _bare_skin(rgb, visible)
    brightness = float(np.median(bare.mean(axis=2)))
    lab = color.rgb2lab(np.clip(rgb / bare * (3 * brightness * SKIN), 0, 1))
    skin = color.rgb2lab(np.clip(3 * brightness * SKIN, 0, 1))
    distance = np.linalg.norm(filters.gaussian(lab, sigma=1, channel_axis=2) - skin, axis=2)
    area = _lesion_mask(distance, visible)
    lesion = Lesion(lab, area, distance, skin, visible)
    _check_plausible(lesion)
    return lesion


def _without_hair(rgb: Floats) -> Floats:
    """Fill thin dark lines from their surroundings, after DullRazor (Lee et al. 1997)."""
    closed = np.stack([morphology.closing(rgb[..., band], morphology.disk(3)) for band in range(3)], axis=2)
    lines = (closed - rgb).max(axis=2) > HAIR
    # The texture of a lesion is dark and fine too, but has no long lines.
    long = morphology.remove_small_objects(morphology.skeletonize(lines), max_size=SIDE // 8, connectivity=2)
    hair = ndimage.binary_propagation(long, mask=lines)
    return np.where(ndimage.binary_dilation(hair)[..., None], closed, rgb)


def _visible(rgb: Floats) -> Bools:
    """Mask without the dark corners and rim of a dermoscope."""
    dark = color.rgb2lab(rgb)[..., 0] < DARK_FIELD
    edge = np.zeros_like(dark)
    edge[[0, -1], :] = edge[:, [0, -1]] = True
    rim = ndimage.binary_propagation(dark & edge, mask=dark)
    visible: Bools = ~ndimage.binary_dilation(rim, iterations=5)
    if visible.mean() < MIN_AREA:
        raise LesionNotFound("the image is black")
    return visible


def _bare_skin(rgb: Floats, visible: Bools) -> Floats:
    """Estimated skin colour under the actual light at every pixel [h, w, 3].

    A quadratic is fitted to the logarithm of the colours in a frame along the edge of the visible area. The fit is
    repeated without the pixels that are darker or much lighter than fitted: hairs, spots and parts of the lesion (after
    Cavalcanti and Scharcanski 2011).
    """
    width = max(2, round(FRAME * min(visible.shape)))
    frame = visible & ~ndimage.binary_erosion(np.pad(visible, 1), iterations=width)[1:-1, 1:-1]
    rows, columns = (2 * np.indices(visible.shape).T / (np.array(visible.shape) - 1) - 1).T
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


def _lesion_mask(distance: Floats, visible: Bools) -> Bools:
    """Of the regions above Otsu's threshold, the one with the largest weighted area; central pixels weigh more."""
    smooth = filters.gaussian(distance, sigma=2)
    distinct = (smooth > filters.threshold_otsu(smooth[visible])) & visible
    tidy = morphology.closing(morphology.opening(distinct, morphology.disk(2)), morphology.disk(4))
    filled = ndimage.binary_fill_holes(tidy)
    parts = measure.label(filled)
    if parts.max() == 0:
        raise LesionNotFound("nothing differs from the skin")
    middle = (np.array(visible.shape) - 1) / 2
    weight = np.exp(-2 * np.sum(((np.indices(visible.shape).T - middle) / middle) ** 2, axis=2).T)
    sums = np.bincount(parts.ravel(), weights=weight.ravel())
    sums[0] = 0
    area: Bools = parts == int(sums.argmax())
    return area


def _check_plausible(lesion: Lesion) -> None:
    share = lesion.area.sum() / lesion.visible.sum()
    if share < MIN_AREA:
        raise LesionNotFound("the region that differs from the skin is too small")
    if share > MAX_AREA:
        raise LesionNotFound("the lesion fills the image, so there is no skin to compare it with")
    if lesion.area.sum() < MIN_SOLIDITY * morphology.convex_hull_image(lesion.area).sum():
        raise LesionNotFound("the region that differs from the skin consists of ragged patches, not one lesion")
    if lesion.cut > MAX_CUT:
        raise LesionNotFound("the lesion extends beyond the image")
    outside = lesion.visible & ~lesion.area
    if np.median(lesion.distance[lesion.area]) - np.median(lesion.distance[outside]) < MIN_CONTRAST:
        raise LesionNotFound("the lesion hardly differs from the skin")
