"""Draws synthetic lesions: skin, outline, and one recipe per class; for software tests, not realistic.

The recipes exaggerate textbook dermoscopy. Their ranges overlap, and one lesion in eight has the colours of a lookalike
class, so that no single feature identifies a class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dermnote_train.data.paint import Colour, Floats, blend, curve, lines, network, noise, rgb, spots, step

SIZE = 224
SKINS = tuple(map(rgb, ("efd0ba", "e9c1a6", "e2b294", "d6a283", "c98f6f", "ad7a5c")))
HAIRS = tuple(map(rgb, ("3a2a20", "5b4030", "8a6a4a", "1e1815")))
ATYPICAL = 0.12


@dataclass(frozen=True)
class Outline:
    """Signed distance in pixels [SIZE, SIZE], positive inside, and the lesion's centre and radius."""

    inside: Floats
    x: float
    y: float
    radius: float

    def cover(self, *, soft: float, grow: float = 0.0) -> Floats:
        """Mask of the lesion in 0..1, enlarged by `grow` pixels."""
        return step(self.inside + grow, soft=soft)

    def discs(
        self, rng: np.random.Generator, count: int, *, spread: float, sizes: tuple[float, float]
    ) -> list[tuple[float, float, float]]:
        """`count` random discs (x, y, radius) around the centre; a `spread` of 1 reaches the border."""
        angles, reach = rng.uniform(0, 2 * np.pi, count), self.radius * spread * np.sqrt(rng.random(count))
        x, y = self.x + reach * np.cos(angles), self.y + reach * np.sin(angles)
        return list(zip(x, y, rng.uniform(*sizes, count), strict=True))

    def rim(self, angle: float) -> tuple[float, float]:
        """The outermost point of the lesion in a direction (in radians)."""
        reach = np.arange(2 * self.radius, 0, -1)
        columns, rows = self.x + reach * np.cos(angle), self.y + reach * np.sin(angle)
        at = np.clip(rows, 0, SIZE - 1).astype(int), np.clip(columns, 0, SIZE - 1).astype(int)
        edge = int(np.argmax(self.inside[at] > 0))
        return float(columns[edge]), float(rows[edge])


@dataclass(frozen=True)
class Shape:
    """Ranges of an outline. `radius` in pixels; `jag`: deviation from an ellipse; `wobble`: fine roughness in pixels;
    `oval`: minimum ratio of the axes."""

    radius: tuple[float, float]
    jag: tuple[float, float]
    wobble: float
    oval: float


Recipe = Callable[[np.random.Generator, Floats, Outline, tuple[Colour, ...]], Floats]


def draw_lesion(label: str, *, rng: np.random.Generator) -> Floats:
    """An image [224, 224, 3] in 0..1 of a lesion of the given class code."""
    image = _skin(rng)
    shown = str(rng.choice(LOOKALIKES[label])) if rng.random() < ATYPICAL else label
    palette = tuple(_shifted(rng, colour) for colour in PALETTES[shown])
    outline = _outline(rng, SHAPES[label])
    image = RECIPES[label](rng, image, outline, palette)
    image = blend(image, HAIRS[rng.integers(len(HAIRS))], _hair(rng))
    return _camera(rng, image)


def _skin(rng: np.random.Generator) -> Floats:
    image = np.ones((SIZE, SIZE, 3)) * np.asarray(_shifted(rng, SKINS[rng.integers(len(SKINS))]))
    mottle = noise(rng, SIZE, grain=22)[..., None] * np.array([0.012, 0.022, 0.02])
    creases = network(rng, SIZE, mesh=rng.uniform(9, 14)) * rng.uniform(0.02, 0.06)
    grain = noise(rng, SIZE, grain=0.8) * 0.012
    shaded: Floats = image + mottle - creases[..., None] * np.array([0.7, 1.0, 1.0]) + grain[..., None]
    return shaded


def _outline(rng: np.random.Generator, shape: Shape) -> Outline:
    size, tilt = rng.uniform(*shape.radius), rng.uniform(0, np.pi)
    x, y = SIZE / 2 + rng.normal(0, 9, 2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    across = (columns - x) * np.cos(tilt) + (rows - y) * np.sin(tilt)
    along = ((rows - y) * np.cos(tilt) - (columns - x) * np.sin(tilt)) / rng.uniform(shape.oval, 1.0)
    angle = np.arctan2(along, across)
    waves = sum(
        rng.normal(0, 1) / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 7)
    ) * rng.uniform(*shape.jag)
    ragged = noise(rng, SIZE, grain=5) * shape.wobble
    return Outline(size * (1 + waves) - np.hypot(across, along) + ragged, x, y, size)


def _nevus(rng: np.random.Generator, image: Floats, outline: Outline, palette: tuple[Colour, ...]) -> Floats:
    light, brown, dark = palette[:3]
    soft = rng.uniform(1.5, 5)
    image = blend(image, light, outline.cover(soft=soft) * rng.uniform(0.75, 0.95))
    middle = step(outline.inside - outline.radius * rng.uniform(0.3, 0.6), soft=outline.radius * 0.16)
    image = blend(image, brown, middle * rng.uniform(0.4, 0.8))
    net = network(rng, SIZE, mesh=rng.uniform(8, 11)) * outline.cover(soft=6, grow=-3)
    image = blend(image, dark, net * rng.uniform(0.25, 0.6))
    return blend(image, dark, spots(SIZE, outline.discs(rng, int(rng.integers(0, 14)), spread=0.6, sizes=(1, 2))) * 0.6)


def _melanoma(rng: np.random.Generator, image: Floats, outline: Outline, palette: tuple[Colour, ...]) -> Floats:
    brown, dark, black, blue, red, white = palette
    area = outline.cover(soft=rng.uniform(0.8, 3.5))
    image = blend(image, brown, area * 0.92)
    patches = ((dark, 0.1, 0.85), (black, 0.8, 0.85), (blue, 0.75, 0.6), (red, 1.0, 0.4), (white, 1.3, 0.5))
    for colour, share, strength in patches:
        if colour is dark or rng.random() < 0.7:
            field = noise(rng, SIZE, grain=rng.uniform(9, 18)) - share
            image = blend(image, colour, step(field, soft=rng.uniform(0.06, 0.25)) * area * strength)
    rays = []
    for angle in rng.uniform(0, 2 * np.pi) + rng.uniform(0, 2.2, rng.integers(0, 16)):
        ray = curve(rng, outline.rim(angle), angle=angle, length=rng.uniform(8, 20), bend=0.03)
        rays.append((ray, rng.uniform(1.2, 2.6)))
    image = blend(image, dark, lines(SIZE, rays) * 0.7)
    net = network(rng, SIZE, mesh=rng.uniform(11, 17)) * area * step(noise(rng, SIZE, grain=20), soft=0.2)
    image = blend(image, black, net * 0.5)
    return blend(
        image, black, spots(SIZE, outline.discs(rng, int(rng.integers(2, 18)), spread=1.05, sizes=(0.8, 3.2))) * 0.75
    )


def _basal_cell(rng: np.random.Generator, image: Floats, outline: Outline, palette: tuple[Colour, ...]) -> Floats:
    pink, red, blue, white, crust = palette[:5]
    area = outline.cover(soft=rng.uniform(4, 9))
    image = blend(image, pink, area * rng.uniform(0.5, 0.85))
    sheen = step(noise(rng, SIZE, grain=11) - 0.5, soft=0.4) * area
    image = blend(image, white, sheen * rng.uniform(0.2, 0.5))
    nests = outline.discs(rng, int(rng.integers(1, 9)), spread=0.85, sizes=(3, 9))
    image = blend(image, blue, spots(SIZE, nests, soft=2.5) * area * rng.uniform(0.45, 0.8))
    if rng.random() < 0.35:
        reach = rng.uniform(7, 15)
        x, y = np.array([outline.x, outline.y]) + rng.normal(0, outline.radius * 0.25, 2)
        rows, columns = np.mgrid[:SIZE, :SIZE]
        sore = step(reach - np.hypot(columns - x, rows - y) + 2 * noise(rng, SIZE, grain=3), soft=1.5)
        image = blend(image, crust, sore * 0.85)
    return blend(image, red, lines(SIZE, _vessels(rng, outline)) * area * rng.uniform(0.5, 0.85))


def _vessels(rng: np.random.Generator, outline: Outline) -> list[tuple[list[tuple[float, float]], float]]:
    """Branching vessels that grow inwards."""
    strokes = []
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(2, 6)):
        start = outline.rim(angle)
        inwards = angle + np.pi + rng.normal(0, 0.5)
        trunk = curve(rng, start, angle=inwards, length=outline.radius * 1.1, bend=0.07)
        strokes.append((trunk, rng.uniform(1.4, 2.4)))
        for index in rng.choice(len(trunk), size=min(4, len(trunk)), replace=False):
            heading = angle + np.pi + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
            branch = curve(rng, trunk[index], angle=heading, length=rng.uniform(10, 26), bend=0.1)
            strokes.append((branch, rng.uniform(0.7, 1.2)))
    return strokes


def _benign_keratosis(rng: np.random.Generator, image: Floats, outline: Outline, palette: tuple[Colour, ...]) -> Floats:
    tan, brown, dark, cyst = palette[:4]
    area = outline.cover(soft=rng.uniform(0.6, 2.0))
    image = blend(image, (0.25, 0.16, 0.1), outline.cover(soft=3, grow=2.5) * (1 - area) * 0.35)
    image = blend(image, tan, area * rng.uniform(0.85, 0.97))
    image = blend(image, brown, step(noise(rng, SIZE, grain=rng.uniform(6, 12)), soft=0.7) * area * 0.6)
    furrows = network(rng, SIZE, mesh=rng.uniform(15, 24)) * area
    image = blend(image, dark, furrows * rng.uniform(0.2, 0.65))
    plugs = outline.discs(rng, int(rng.integers(2, 16)), spread=0.9, sizes=(1.5, 3.8))
    image = blend(image, dark, spots(SIZE, plugs) * area * 0.85)
    pearls = outline.discs(rng, int(rng.integers(3, 18)), spread=0.9, sizes=(1.0, 2.6))
    return blend(image, cyst, spots(SIZE, pearls, soft=1.4) * area * 0.85)


def _actinic(rng: np.random.Generator, image: Floats, outline: Outline, palette: tuple[Colour, ...]) -> Floats:
    pink, red, scale, yellow = palette[:4]
    area = outline.cover(soft=rng.uniform(7, 15))
    image = blend(image, pink, area * rng.uniform(0.45, 0.75))
    net = network(rng, SIZE, mesh=rng.uniform(12, 17))
    image = blend(image, red, net * area * rng.uniform(0.3, 0.6))
    follicles = outline.discs(rng, int(rng.integers(6, 26)), spread=1.0, sizes=(1.6, 2.8))
    image = blend(image, yellow, spots(SIZE, follicles, soft=1.6) * area * rng.uniform(0.3, 0.7))
    flakes = step(noise(rng, SIZE, grain=rng.uniform(2.5, 4.5)) - rng.uniform(0.7, 1.2), soft=0.12)
    patch = step(noise(rng, SIZE, grain=18) + 0.2, soft=0.3)
    return blend(image, scale, flakes * patch * area * rng.uniform(0.6, 0.95))


def _hair(rng: np.random.Generator) -> Floats:
    count = int(rng.choice([0, 0, 0, 2, 4, 8, 14]))
    heading = rng.uniform(0, np.pi)
    strokes = []
    for _ in range(count):
        start, angle = tuple(rng.uniform(-10, SIZE + 10, 2)), heading + rng.normal(0, 0.5)
        strokes.append((curve(rng, start, angle=angle, length=rng.uniform(50, 170), bend=0.008), rng.uniform(0.7, 1.5)))
    return lines(SIZE, strokes) * rng.uniform(0.55, 0.9)


def _camera(rng: np.random.Generator, image: Floats) -> Floats:
    """Add uneven light, a colour cast, a darker rim and sensor noise."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    heading = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.14) * (columns * np.cos(heading) + rows * np.sin(heading))
    rim = 1 - rng.uniform(0, 0.45) * np.clip(np.hypot(columns, rows) - 0.42, 0, None) ** 1.5 * 4
    cast = rng.normal(1, 0.018, 3)
    seen: Floats = np.clip(image * (light * rim)[..., None] * cast + rng.normal(0, 0.008, image.shape), 0, 1)
    return seen


def _shifted(rng: np.random.Generator, colour: Colour) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) * rng.normal(1, 0.07) * rng.normal(1, 0.012, 3), 0, 1)
    return float(red), float(green), float(blue)


LOOKALIKES: Mapping[str, tuple[str, ...]] = {
    "BEK": ("NEV", "MEL"),
    "NEV": ("MEL", "BEK"),
    "ACK": ("BCC",),
    "BCC": ("ACK",),
    "MEL": ("NEV", "BEK"),
}
RECIPES: Mapping[str, Recipe] = {
    "BEK": _benign_keratosis,
    "NEV": _nevus,
    "ACK": _actinic,
    "BCC": _basal_cell,
    "MEL": _melanoma,
}
PALETTES: Mapping[str, tuple[Colour, ...]] = {
    label: tuple(map(rgb, colours.split()))
    for label, colours in {
        "BEK": "bd8a68 8e6248 4c3226 f0e2c0 6a4a32 d8c09a",
        "NEV": "a9744e 7d4f33 55331f 6f452c 8a5a3c c09070",
        "ACK": "d98c7a c2564c f3e9dc ecd2a4 b0483f f6efe6",
        "BCC": "dd9a8c b8453c 5f6c86 f4e2da 6b2a1e c47a6a",
        "MEL": "7a4a2e 4a2b1c 1f1716 5c6f8a a84b42 d9c8be",
    }.items()
}
SHAPES: Mapping[str, Shape] = {
    "BEK": Shape(radius=(42.0, 68.0), jag=(0.02, 0.10), wobble=1.6, oval=0.65),
    "NEV": Shape(radius=(30.0, 58.0), jag=(0.0, 0.08), wobble=0.8, oval=0.72),
    "ACK": Shape(radius=(45.0, 72.0), jag=(0.05, 0.18), wobble=5.0, oval=0.6),
    "BCC": Shape(radius=(36.0, 64.0), jag=(0.03, 0.14), wobble=3.0, oval=0.65),
    "MEL": Shape(radius=(44.0, 74.0), jag=(0.07, 0.24), wobble=2.2, oval=0.55),
}
