"""Painting primitives for float RGB images [size, size, 3] in 0..1: noise, shapes, lines, spots."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.filters import gaussian

Floats = NDArray[np.float64]
Colour = tuple[float, float, float]
Point = tuple[float, float]
OVERSAMPLING = 3


def rgb(text: str) -> Colour:
    """A colour from "rrggbb"."""
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def noise(rng: np.random.Generator, size: int, *, grain: float) -> Floats:
    """Smooth noise with mean 0 and standard deviation 1; `grain` in pixels."""
    field = gaussian(rng.standard_normal((size, size)), sigma=grain, mode="wrap")
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float64)


def blend(image: Floats, colour: Colour, cover: Floats) -> Floats:
    """Blend a colour over the image; `cover` [size, size] in 0..1."""
    return image + np.clip(cover, 0, 1)[..., None] * (np.asarray(colour) - image)


def step(field: Floats, *, soft: float) -> Floats:
    """0 where the field is negative, 1 where it is positive, with a transition about `soft` wide."""
    return np.asarray(1 / (1 + np.exp(-np.clip(field / max(soft, 1e-3), -30, 30))), dtype=np.float64)


def network(rng: np.random.Generator, size: int, *, mesh: float) -> Floats:
    """A network of thin lines in 0..1 with holes about `mesh` pixels wide."""
    band = noise(rng, size, grain=mesh * 0.32) - 0.7 * noise(rng, size, grain=mesh * 0.62)
    return np.asarray(np.exp(-((band / 0.33) ** 2)), dtype=np.float64)


def lines(size: int, strokes: Iterable[tuple[Sequence[Point], float]]) -> Floats:
    """Cover in 0..1 of polylines (points in pixels, width in pixels)."""
    large = size * OVERSAMPLING
    canvas = Image.new("L", (large, large))
    pen = ImageDraw.Draw(canvas)
    for points, width in strokes:
        scaled = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
        pen.line(scaled, fill=255, width=max(1, round(width * OVERSAMPLING)), joint="curve")
    return np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float64) / 255


def spots(size: int, discs: Iterable[tuple[float, float, float]], *, soft: float = 1.0) -> Floats:
    """Cover in 0..1 of discs (x, y, radius in pixels)."""
    rows, columns = np.mgrid[:size, :size]
    cover = np.zeros((size, size))
    for x, y, radius in discs:
        reach = int(radius + 4 * soft) + 1
        part = np.s_[max(0, int(y) - reach) : int(y) + reach + 1, max(0, int(x) - reach) : int(x) + reach + 1]
        disc = step(radius - np.hypot(columns[part] - x, rows[part] - y), soft=soft * 0.5)
        cover[part] = np.maximum(cover[part], disc)
    return cover


def curve(rng: np.random.Generator, start: Point, *, angle: float, length: float, bend: float) -> list[Point]:
    """A random curve in steps of 2 pixels; `bend`: standard deviation of the turn per step, in radians."""
    points = [start]
    turn = 0.0
    for _ in range(int(length / 2)):
        turn = 0.8 * turn + rng.normal(0, bend)
        angle += turn
        points.append((points[-1][0] + 2 * np.cos(angle), points[-1][1] + 2 * np.sin(angle)))
    return points
