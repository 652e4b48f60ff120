"""Findings of drawn shapes with known properties: area, symmetry, border, colours, and rejected images."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dermnote_train.findings.measures import Measures, measure_lesion
from dermnote_train.findings.segmentation import LesionNotFound, find_lesion

SIZE = 224
SKIN = (222, 178, 155)
DARK, LIGHT = (88, 54, 38), (164, 112, 82)
Area = NDArray[np.bool_]
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] - SIZE / 2


def ellipse(*, long: float = 60, short: float = 60, turn: float = 0.0, x: float = 0, y: float = 0) -> Area:
    angle = np.radians(turn)
    across = (COLUMNS - x) * np.cos(angle) + (ROWS - y) * np.sin(angle)
    along = (ROWS - y) * np.cos(angle) - (COLUMNS - x) * np.sin(angle)
    inside: Area = (across / long) ** 2 + (along / short) ** 2 < 1
    return inside


DISC = ellipse()
BITTEN = DISC & ~ellipse(long=42, short=42, x=42, y=-30)
CRESCENT = DISC & ~ellipse(long=46, short=46, x=36)
TRIANGLE: Area = (ROWS < 50) & (2 * np.abs(COLUMNS) - 110 < ROWS - 50)


@dataclass(frozen=True)
class Drawn:
    """A drawn image and the true area of its lesion."""

    image: Image.Image
    area: Area


def draw(
    area: Area,
    *,
    inside: tuple[int, int, int] | NDArray[np.float64] = DARK,
    skin: tuple[int, int, int] = SKIN,
    soft: float | NDArray[np.float64] = 0.8,
    light: NDArray[np.float64] | float = 1.0,
) -> Drawn:
    """`soft`: pixels over which the border blurs, or a map [SIZE, SIZE] of 0 (sharp) to 1 (blurred by 14)."""
    if isinstance(soft, float):
        cover = ndimage.gaussian_filter(area.astype(float), soft)
    else:
        cover = ndimage.gaussian_filter(area.astype(float), 0.8) * (1 - soft)
        cover += ndimage.gaussian_filter(area.astype(float), 14) * soft
    noise = np.random.default_rng(0).normal(0, 2.5, (SIZE, SIZE, 3))
    colours = np.asarray(skin) * (1 - cover[..., None]) + np.asarray(inside) * cover[..., None]
    seen = (colours * np.asarray(light) + noise).clip(0, 255).astype(np.uint8)
    return Drawn(Image.fromarray(seen), area)


def measured(drawn: Drawn) -> Measures:
    return measure_lesion(find_lesion(drawn.image))


def overlap(drawn: Drawn) -> float:
    result = find_lesion(drawn.image).area
    return float((result & drawn.area).sum() / (result | drawn.area).sum())


@pytest.mark.parametrize("area", [DISC, ellipse(long=80, short=35, turn=30), BITTEN, TRIANGLE, ellipse(x=-25, y=20)])
def test_the_area_is_found(area: Area) -> None:
    drawn = draw(area)
    assert overlap(drawn) > 0.93
    assert measured(drawn).area == pytest.approx(area.mean(), rel=0.08)


@pytest.mark.parametrize(
    ("area", "asymmetry"),
    [
        (DISC, "symmetric"),
        (ellipse(long=75, short=40), "symmetric"),
        (ellipse(long=75, short=40, turn=37), "symmetric"),
        (ellipse(long=75, short=40, turn=120, x=10, y=-15), "symmetric"),
        (BITTEN, "asymmetric"),
        (CRESCENT, "asymmetric"),
        (TRIANGLE, "asymmetric"),
    ],
)
def test_shapes_without_a_mirror_image_are_asymmetric(area: Area, asymmetry: str) -> None:
    assert measured(draw(area)).findings().asymmetry == asymmetry


def test_two_halves_of_different_colour_are_asymmetric_and_two_rings_are_not() -> None:
    halves = np.where((COLUMNS < 0)[..., None], DARK, LIGHT).astype(float)
    rings = np.where(ellipse(long=35, short=35)[..., None], DARK, LIGHT).astype(float)
    by_colour = measured(draw(DISC, inside=halves))
    assert by_colour.shape is not None
    assert by_colour.shape < 0.1
    assert by_colour.findings().asymmetry == "asymmetric"
    assert measured(draw(DISC, inside=rings)).findings().asymmetry == "symmetric"


def test_findings_do_not_depend_on_pose_or_size() -> None:
    drawn = draw(BITTEN, inside=np.where((ROWS < 0)[..., None], DARK, LIGHT).astype(float))
    poses: list[Callable[[Image.Image], Image.Image]] = [
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.resize((2 * SIZE, 2 * SIZE)),
        lambda image: image.rotate(25, fillcolor=SKIN, resample=Image.Resampling.BICUBIC),
    ]
    upright = measured(drawn).findings()
    for pose in poses:
        assert measure_lesion(find_lesion(pose(drawn.image))).findings() == upright


@pytest.mark.parametrize(
    ("soft", "border"),
    [
        (0.8, "sharp"),
        (2.0, "sharp"),
        (14.0, "indistinct"),
        (np.where(COLUMNS < 0, 1.0, 0.0), "mixed"),
    ],
)
def test_borders_are_sharp_indistinct_or_mixed(soft: float | NDArray[np.float64], border: str) -> None:
    assert measured(draw(DISC, soft=soft)).findings().border == border


@pytest.mark.parametrize(
    ("colour", "term"),
    [
        ((246, 240, 236), "white"),
        ((196, 70, 66), "red"),
        ((170, 114, 78), "light brown"),
        ((92, 58, 40), "dark brown"),
        ((98, 108, 128), "blue-gray"),
        ((26, 20, 20), "black"),
    ],
)
def test_each_colour_of_the_vocabulary_is_recognised(colour: tuple[int, int, int], term: str) -> None:
    result = measured(draw(DISC, inside=colour))
    assert result.findings().colours == [term]
    assert result.colours[term] > 0.8


def test_several_colours_are_reported_but_not_a_speck() -> None:
    stripes = np.empty((SIZE, SIZE, 3))
    stripes[:] = DARK
    stripes[COLUMNS < -15] = (196, 70, 66)
    stripes[COLUMNS > 20] = (98, 108, 128)
    stripes[ellipse(long=8, short=8)] = (20, 16, 16)
    assert set(measured(draw(DISC, inside=stripes)).findings().colours or ()) == {"red", "dark brown", "blue-gray"}


def shaded(*, least: float) -> NDArray[np.float64]:
    """Light that falls off from one corner to the other."""
    light: NDArray[np.float64] = 1 - (1 - least) * ((ROWS + COLUMNS) / (2 * SIZE) + 0.5)
    return light[..., None]


@pytest.mark.parametrize(
    "light",
    [
        shaded(least=0.55),
        np.array([1.0, 0.88, 0.82]),
        np.array([0.86, 0.9, 1.0]),
        shaded(least=0.7) * np.array([1.0, 0.9, 0.9]),
    ],
    ids=["from one side", "reddish", "bluish", "both"],
)
def test_uneven_or_coloured_light_does_not_change_the_findings(light: NDArray[np.float64]) -> None:
    in_white, drawn = measured(draw(BITTEN)).findings(), draw(BITTEN, light=light)
    assert overlap(drawn) > 0.9
    assert measured(drawn).findings() == in_white


@pytest.mark.parametrize("skin", [(240, 205, 188), (198, 150, 120), (128, 88, 66)])
def test_findings_are_the_same_on_lighter_and_darker_skin(skin: tuple[int, int, int]) -> None:
    drawn = draw(ellipse(long=75, short=40), inside=(60, 36, 28), skin=skin)
    assert overlap(drawn) > 0.93
    result = measured(drawn).findings()
    assert (result.asymmetry, result.border) == ("symmetric", "sharp")


def test_hairs_do_not_change_the_findings() -> None:
    drawn = draw(DISC)
    pixels = np.asarray(drawn.image).copy()
    for start in range(-200, 200, 45):
        pixels[np.abs(COLUMNS - 0.6 * ROWS - start) < 1.3] = (40, 28, 22)
    hairy = Drawn(Image.fromarray(pixels), DISC)
    assert overlap(hairy) > 0.9
    assert measured(hairy).findings() == measured(drawn).findings()


def test_the_dark_rim_of_a_dermoscope_does_not_change_the_findings() -> None:
    drawn = draw(DISC)
    pixels = np.asarray(drawn.image).copy()
    pixels[np.hypot(ROWS, COLUMNS) > 108] = (4, 4, 5)
    rimmed = Drawn(Image.fromarray(pixels), DISC)
    assert overlap(rimmed) > 0.93
    assert measured(rimmed).findings() == measured(drawn).findings()


def test_a_lesion_cut_off_by_the_image_only_has_colours() -> None:
    result = measured(draw(ellipse(x=65))).findings()
    assert (result.asymmetry, result.border, result.colours) == (None, None, ["dark brown"])


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (draw(np.zeros((SIZE, SIZE), bool)), "hardly differs|too small|patches"),
        (draw(ellipse(long=12, short=10)), "too small"),
        (draw(ellipse(x=95, long=70, short=70)), "extends beyond the image"),
        (draw(DISC, inside=(212, 168, 146)), "hardly differs"),
        (Drawn(Image.new("RGB", (SIZE, SIZE)), DISC), "black"),
    ],
    ids=["bare skin", "a dot", "half outside", "pale", "black"],
)
def test_a_doubtful_segmentation_is_rejected_with_a_reason(drawn: Drawn, reason: str) -> None:
    with pytest.raises(LesionNotFound, match=reason):
        find_lesion(drawn.image)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (47, 300)])
def test_images_that_are_too_small_are_rejected(size: tuple[int, int]) -> None:
    with pytest.raises(LesionNotFound, match="at least 48 pixels are needed"):
        find_lesion(Image.new("RGB", size, SKIN))


@pytest.mark.parametrize("seed", range(8))
def test_noise_of_any_size_is_measured_or_rejected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = rng.integers(48, 400, 2)
    grain = ndimage.gaussian_filter(rng.normal(0, 1, (height, width, 3)), (*rng.uniform(0, 12, 2), 0))
    noise = (128 + 100 * grain / np.abs(grain).max()).astype(np.uint8)
    with suppress(LesionNotFound):
        shares = measure_lesion(find_lesion(Image.fromarray(noise))).colours
        assert sum(shares.values()) <= 1.000001
