"""Measures a segmented lesion and maps the measures to the terms of the closed vocabulary.

The thresholds are ours, chosen on drawn shapes with known properties and by inspecting about 200 segmented images of
HAM10000 and PAD-UFES-20. The measures do not depend on the class label.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage import measure, transform

from dermnote_contracts.metadata import Findings
from dermnote_contracts.vocabulary import vocabularies
from dermnote_train.findings.segmentation import Bools, Floats, Lesion

COLOURS = vocabularies()["colours"].terms
CANVAS = 129  # side in pixels of the square on which a lesion is mirrored; odd, so that it has a centre pixel
FOLDED = 48.0  # a lesion is scaled so that a disc of the same area has this radius in pixels
SHAPE_LIMIT, COLOUR_LIMIT = 0.18, 9.0
"""Limits above which a lesion is asymmetric, in the units of `asymmetry`."""
SECTORS = 8
SHARP_WIDTH = 0.16
"""A sector's border is sharp if its contrast with the skin falls from 3/4 to 1/4 within this share of the radius."""
SHARP_FROM, INDISTINCT_TO = 6, 2  # a border with at least 6 sharp sectors is sharp, with at most 2 indistinct
MIN_FALL = 5.0  # least difference in CIE76 between inside and outside for a sector to have a sharp border
MAX_CUT = 0.12  # shape and border are measured if at most this share of the outline is on the visible edge
REACH = 0.35  # length of a border profile on each side of the outline, as a share of the radius
MIN_SHARE = 0.06  # share of the lesion's area from which a colour counts
SKIN_COLOURED = 6.0  # a pixel at most this far (CIE76) from the skin's colour gets no colour term


@dataclass(frozen=True)
class Measures:
    """Measures of a lesion. `shape`, `colour`: asymmetry (see `asymmetry`); None if the lesion is cut off.

    `sharp_sectors`: out of eight; None if the lesion is cut off. `colours`: share of the lesion for every colour term.
    `area`: share of the visible image that the lesion covers.
    """

    area: float
    shape: float | None
    colour: float | None
    sharp_sectors: int | None
    colours: dict[str, float]

    def findings(self) -> Findings:
        """The terms of the closed vocabulary; what could not be measured is left out."""
        asymmetry = border = None
        if self.shape is not None and self.colour is not None:
            asymmetric = self.shape > SHAPE_LIMIT or self.colour > COLOUR_LIMIT
            asymmetry = "asymmetric" if asymmetric else "symmetric"
        if self.sharp_sectors is not None:
            sharp, indistinct = self.sharp_sectors >= SHARP_FROM, self.sharp_sectors <= INDISTINCT_TO
            border = "sharp" if sharp else "indistinct" if indistinct else "mixed"
        colours = [name for name, share in self.colours.items() if share >= MIN_SHARE]
        return Findings(asymmetry=asymmetry, border=border, colours=colours or None)


def measure_lesion(lesion: Lesion) -> Measures:
    """All measures of a segmented lesion."""
    complete = lesion.cut <= MAX_CUT
    shape, colour = asymmetry(lesion) if complete else (None, None)
    return Measures(
        area=float(lesion.area.sum() / lesion.visible.sum()),
        shape=shape,
        colour=colour,
        sharp_sectors=sharp_sectors(lesion) if complete else None,
        colours=colour_shares(lesion),
    )


def asymmetry(lesion: Lesion) -> tuple[float, float]:
    """Asymmetry of (shape, colour), each for the less symmetric of the two principal axes.

    Shape: 1 - intersection over union of the area with its mirror image. Colour: mean CIE76 between pixels and their
    mirror images where both are lesion, smoothed so that dots and network do not count.
    """
    area, lab = _upright(lesion)
    shape, colour = [], []
    for axis in (0, 1):
        mirrored = np.flip(area, axis)
        both = area & mirrored
        shape.append(1 - both.sum() / (area | mirrored).sum())
        apart = np.linalg.norm(lab - np.flip(lab, axis), axis=2)
        colour.append(float(apart[both].mean()) if both.any() else 0.0)
    return float(max(shape)), max(colour)


def _upright(lesion: Lesion) -> tuple[Bools, Floats]:
    """Area and smoothed colours on a square canvas, the lesion centred and its long axis upright."""
    (region,) = measure.regionprops(lesion.area.astype(np.uint8))
    row, column = region.centroid
    middle = CANVAS // 2
    to_image = (
        transform.AffineTransform(translation=(-middle, -middle))
        + transform.AffineTransform(scale=lesion.radius / FOLDED, rotation=-region.orientation)
        + transform.AffineTransform(translation=(column, row))
    )
    shape = (CANVAS, CANVAS)
    area = transform.warp(lesion.area.astype(float), to_image, output_shape=shape, order=1) > 0.5
    smooth = ndimage.gaussian_filter(lesion.lab, (lesion.radius / 8, lesion.radius / 8, 0))
    return area, transform.warp(smooth, to_image, output_shape=shape, order=1, mode="edge")


def sharp_sectors(lesion: Lesion) -> int:
    """Number of sectors out of eight with a sharp border (like B in Stolz's ABCD rule, which also uses eight)."""
    away = ndimage.distance_transform_edt(~lesion.area) - ndimage.distance_transform_edt(lesion.area)
    outline = max(measure.find_contours(lesion.area.astype(float), 0.5), key=len)
    smooth: Floats = ndimage.gaussian_filter(away, 2)
    normal = np.stack([ndimage.map_coordinates(slope, outline.T, order=1) for slope in np.gradient(smooth)])
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
    steps = np.linspace(-REACH, REACH, 57) * lesion.radius
    points = outline.T[:, :, None] + normal[:, :, None] * steps
    profiles = ndimage.map_coordinates(lesion.distance, points, order=1, mode="nearest")
    row, column = ndimage.center_of_mass(lesion.area)
    angles = np.arctan2(outline[:, 0] - row, outline[:, 1] - column)
    sector = ((angles + np.pi) / (2 * np.pi) * SECTORS).astype(int) % SECTORS
    fields = [profiles[sector == number].mean(axis=0) for number in range(SECTORS) if (sector == number).any()]
    return sum(_width(profile) <= SHARP_WIDTH for profile in fields)


def _width(profile: Floats) -> float:
    """Share of the radius within which a profile, from inside to outside, falls from 3/4 to 1/4 of its height."""
    quarter = len(profile) // 4
    inside, outside = profile[:quarter].mean(), profile[-quarter:].mean()
    if inside - outside < MIN_FALL:
        return np.inf  # hardly any border
    level = (profile - outside) / (inside - outside)
    first_low = int(np.argmax(level < 0.25))
    last_high = int(np.flatnonzero(level[: max(first_low, 1)] > 0.75)[-1]) if (level[:first_low] > 0.75).any() else 0
    return (first_low - last_high) / (len(profile) - 1) * 2 * REACH


def colour_shares(lesion: Lesion) -> dict[str, float]:
    """Share of the lesion's area per colour term; skin-coloured pixels count for none."""
    lab = lesion.lab[lesion.area]
    light, red, yellow = lab.T
    chroma, hue = np.hypot(red, yellow), np.degrees(np.arctan2(yellow, red))
    apart = np.linalg.norm(lab - lesion.skin, axis=1) > SKIN_COLOURED
    rules = {
        "white": (light > lesion.skin[0] + 3) & (chroma < 14),
        "black": (light < 18) & (chroma < 20),
        "blue-gray": (yellow < 5) & ((red < 14) | (yellow < 0) & (chroma < 25)) & (light < 65),
        "red": (hue < 36) & (chroma > 18) & (light > 30),
        "dark brown": light < 42,
        "light brown": light >= 42,
    }
    remaining = apart.copy()
    shares: dict[str, float] = {}
    for name, rule in rules.items():
        matched = remaining & rule
        shares[name] = float(matched.mean())
        remaining &= ~matched
    return {name: shares[name] for name in COLOURS}
