"""Near-duplicate pictures: the same photograph saved again, cropped a little, mirrored or turned."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dermnote_train.data.records import Record
from dermnote_train.progress import Report, Step, silent

STAGE = "compare images"
SIDE = 32
LIMITS = ((4, 0.94), (8, 0.97))
"""Bits of 64 in which the perceptual hashes (DCT) of two pictures may differ, and the least correlation of their
pixels, gray and 32 by 32, with it: hashes alone take two round lesions in the middle for one picture."""
AT_ONCE = 512
THREADS = 4
POSES: tuple[tuple[Image.Transpose, ...], ...] = (
    (),
    (Image.Transpose.ROTATE_90,),
    (Image.Transpose.ROTATE_180,),
    (Image.Transpose.ROTATE_270,),
    (Image.Transpose.FLIP_LEFT_RIGHT,),
    (Image.Transpose.FLIP_TOP_BOTTOM,),
    (Image.Transpose.TRANSPOSE,),
    (Image.Transpose.TRANSVERSE,),
)


@dataclass(frozen=True, eq=False)
class Look:
    """A picture for comparison: its hash in each of eight poses [8], and its pixels [8, 32, 32] likewise."""

    record: Record
    hashes: NDArray[np.uint64]
    pixels: NDArray[np.float32]


@dataclass(frozen=True)
class Twins:
    """Two pictures that show the same. `bits`: that differ, of 64; `correlation`: of their pixels; `turned`: one is
    mirrored or turned."""

    first: Record
    second: Record
    bits: int
    correlation: float
    turned: bool


def looks(records: Sequence[Record], *, progress: Report = silent) -> tuple[Look, ...]:
    """What the comparison needs of every record's picture."""
    found = []
    with ThreadPoolExecutor(THREADS) as pool:
        for one in pool.map(_look, records):
            found.append(one)
            progress(Step(STAGE, len(found), len(records)))
    return tuple(found)


def _look(record: Record) -> Look:
    with Image.open(record.image_path) as file:
        file.draft("L", (4 * SIDE, 4 * SIDE))
        small = ImageOps.exif_transpose(file).convert("L").resize((4 * SIDE, 4 * SIDE), Image.Resampling.LANCZOS)
    hashes, pixels = [], []
    for pose in POSES:
        posed = small
        for turn in pose:
            posed = posed.transpose(turn)
        bits = imagehash.phash(posed, hash_size=8).hash.ravel()
        hashes.append(int("".join("1" if bit else "0" for bit in bits), 2))
        tiny = np.asarray(posed.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
        pixels.append((tiny - tiny.mean()) / (tiny.std() + 1e-6))
    return Look(record, np.array(hashes, dtype=np.uint64), np.stack(pixels))


def twins(these: Sequence[Look], those: Sequence[Look] | None = None) -> tuple[Twins, ...]:
    """The pairs within `these`, or between `these` and `those`; the most alike first.

    Every picture is compared with every other: some seconds for 10,000, minutes for 100,000.
    """
    others = these if those is None else those
    found = [_twins(these[row], others[column]) for row, column in _near(these, others, within=those is None)]
    alike = [pair for pair in found if any(pair.bits <= bits and pair.correlation >= least for bits, least in LIMITS)]
    return tuple(sorted(alike, key=lambda pair: (-pair.correlation, pair.first.image_id, pair.second.image_id)))


def _near(these: Sequence[Look], others: Sequence[Look], *, within: bool) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes differ in few bits in one pose at least; within one set each once."""
    if not these or not others:
        return
    most = max(bits for bits, _ in LIMITS)
    straight = np.stack([look.hashes[0] for look in others])
    for start in range(0, len(these), AT_ONCE):
        posed = np.stack([look.hashes for look in these[start : start + AT_ONCE]])
        bits = np.bitwise_count(posed[:, :, None] ^ straight[None, None, :]).min(axis=1)
        for row, column in np.argwhere(bits <= most):
            if not within or start + row < column:
                yield int(start + row), int(column)


def _twins(first: Look, second: Look) -> Twins:
    correlations = (first.pixels * second.pixels[0]).mean(axis=(1, 2))
    pose = int(correlations.argmax())
    bits = int(np.bitwise_count(first.hashes[pose] ^ second.hashes[0]))
    return Twins(first.record, second.record, bits, float(correlations[pose]), turned=pose != 0)
