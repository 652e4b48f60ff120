"""Near-duplicate images: the same photograph re-encoded, slightly cropped, mirrored or rotated."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray

from dermnote_imaging.decoder import cell_means, from_pixels
from dermnote_train.data.images import decode_file
from dermnote_train.data.records import Record
from dermnote_train.progress import Report, silent, track

STAGE = "compare images"
SIDE = 32
LIMITS = ((4, 0.94), (8, 0.97))
"""Entries of (maximum number of differing bits, of 64, between the perceptual hashes (DCT); minimum correlation of the
pixels, 32 x 32, gray). Two images are near-duplicates if they meet both limits of any entry. Hashes alone would match
any two round, centred lesions."""
CHUNK = 512
THREADS = 4


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """An image for comparison: its hashes [8] and pixels [8, 32, 32] in eight poses (rotated, mirrored)."""

    record: Record
    hashes: NDArray[np.uint64]
    pixels: NDArray[np.float32]


@dataclass(frozen=True)
class DuplicatePair:
    """Two images of the same scene. `bits`: number of hash bits (of 64) that differ; `correlation`: correlation of the
    pixels; `turned`: one of the images is mirrored or rotated."""

    first: Record
    second: Record
    bits: int
    correlation: float
    turned: bool


def fingerprints(records: Sequence[Record], *, progress: Report = silent) -> tuple[Fingerprint, ...]:
    """The fingerprint of every record's image."""
    with ThreadPoolExecutor(THREADS) as pool:
        return tuple(track(pool.map(_fingerprint, records), stage=STAGE, total=len(records), progress=progress))


def _fingerprint(record: Record) -> Fingerprint:
    image = decode_file(record.image_path, bound_px=8 * SIDE).convert("L").resize((4 * SIDE, 4 * SIDE))
    gray = np.asarray(image)
    hashes, pixels = [], []
    for pose in (np.rot90(one, turns) for one in (gray, gray.T) for turns in range(4)):  # upright first
        posed = from_pixels(np.ascontiguousarray(pose))
        bits = imagehash.phash(posed, hash_size=8).hash.ravel()
        hashes.append(int("".join("1" if bit else "0" for bit in bits), 2))
        tiny = cell_means(posed, width=SIDE, height=SIDE).astype(np.float32)
        pixels.append((tiny - tiny.mean()) / (tiny.std() + 1e-6))
    return Fingerprint(record, np.array(hashes, dtype=np.uint64), np.stack(pixels))


def find_duplicates(
    images: Sequence[Fingerprint], others: Sequence[Fingerprint] | None = None
) -> tuple[DuplicatePair, ...]:
    """The pairs within `images`, or between `images` and `others`; most similar first.

    Compares every image with every other: seconds for 10,000 images, minutes for 100,000.
    """
    pairs = [_compare(first, second) for first, second in _candidates(images, others)]
    similar = [pair for pair in pairs if any(pair.bits <= bits and pair.correlation >= least for bits, least in LIMITS)]
    return tuple(sorted(similar, key=lambda pair: (-pair.correlation, pair.first.image_id, pair.second.image_id)))


def _candidates(
    images: Sequence[Fingerprint], others: Sequence[Fingerprint] | None
) -> Iterator[tuple[Fingerprint, Fingerprint]]:
    """Pairs whose hashes differ in few bits in at least one pose; each pair once."""
    within, others = others is None, images if others is None else others
    if not images or not others:
        return
    max_bits = max(bits for bits, _ in LIMITS)
    upright = np.stack([other.hashes[0] for other in others])
    for start in range(0, len(images), CHUNK):
        posed = np.stack([image.hashes for image in images[start : start + CHUNK]])
        bits = np.bitwise_count(posed[:, :, None] ^ upright[None, None, :]).min(axis=1)
        for row, column in np.argwhere(bits <= max_bits):
            if not within or start + row < column:
                yield images[int(start + row)], others[int(column)]


def _compare(first: Fingerprint, second: Fingerprint) -> DuplicatePair:
    correlations = (first.pixels * second.pixels[0]).mean(axis=(1, 2))
    pose = int(correlations.argmax())
    bits = int(np.bitwise_count(first.hashes[pose] ^ second.hashes[0]))
    return DuplicatePair(first.record, second.record, bits, float(correlations[pose]), turned=pose != 0)
