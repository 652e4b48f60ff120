"""Images: decoded according to the manifest, rejected with one line if unreadable, augmented within limits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dermnote_contracts.manifest import Preprocessing
from dermnote_train.data.images import pixels_version
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.models import images
from dermnote_train.training import augment

HOW = Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ToyRecords = Callable[..., tuple[Record, ...]]


def _gradient(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    channels = (rows * 255 / height, columns * 255 / width, (rows + columns) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (33, 57), (200, 90), (20, 31)])
def test_preprocessing_is_shorter_side_then_centre_crop(size: tuple[int, int]) -> None:
    picture = _gradient(*size)
    pixels = images.preprocess(picture, preprocessing=HOW)
    width, height = size
    scaled = (32, int(32 * height / width)) if width <= height else (int(32 * width / height), 32)
    resized = picture.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - 32) / 2), round((scaled[1] - 32) / 2)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32))).transpose(2, 0, 1)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_all_images_are_decoded_in_order(toy_records: ToyRecords) -> None:
    records = toy_records(3)
    pixels = images.decode(records, preprocessing=HOW)
    assert pixels.shape == (9, 3, 32, 32)
    for row, record in enumerate(records):
        alone = images.preprocess(Image.open(record.image_path), preprocessing=HOW)
        assert torch.equal(pixels[row], torch.from_numpy(alone))


def test_an_image_is_rotated_upright(toy_records: ToyRecords, tmp_path: Path) -> None:
    (record, *_) = toy_records(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn, as phones write it
    _gradient(40, 40).save(tmp_path / "turned.png", exif=exif)
    _gradient(40, 40).transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    turned, upright = (
        images.decode([replace(record, image_path=tmp_path / name)], preprocessing=HOW)
        for name in ("turned.png", "upright.png")
    )
    assert torch.equal(turned, upright)


def test_a_gray_or_transparent_image_is_converted_to_rgb() -> None:
    for mode in ("L", "RGBA", "P"):
        assert images.preprocess(_gradient(40, 40).convert(mode), preprocessing=HOW).shape == (3, 32, 32)


def test_a_missing_image_is_named(toy_records: ToyRecords) -> None:
    records = toy_records(1)
    records[1].image_path.unlink()
    with pytest.raises(UserError, match=r"image img-green-0: .*img-green-0\.png: the file does not exist"):
        images.decode(records, preprocessing=HOW)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_file_is_named(toy_records: ToyRecords, keep: int) -> None:
    records = toy_records(1)
    path = records[2].image_path
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"image img-blue-0: .*(is empty|is damaged or incomplete)") as refused:
        images.decode(records, preprocessing=HOW)
    assert "\n" not in str(refused.value)


def test_images_beyond_the_memory_limit_are_rejected_before_decoding(toy_records: ToyRecords) -> None:
    (record, *_) = toy_records(1)
    record.image_path.unlink()
    many = [record] * (images.MAX_BYTES // (3 * 32 * 32) + 1)
    with pytest.raises(UserError, match="--limit"):
        images.decode(many, preprocessing=HOW)


def test_augmented_images_differ_and_keep_their_shape() -> None:
    pixels = torch.from_numpy(np.asarray(_gradient(32, 32)).transpose(2, 0, 1).copy())[None].repeat(40, 1, 1, 1)
    torch.manual_seed(0)
    augmented = augment.augment(pixels, augment.augmentation(image_size=32))
    assert augmented.shape == pixels.shape
    assert augmented.dtype == torch.uint8
    assert len({picture.numpy().tobytes() for picture in augmented}) > 20


def test_the_colour_shift_is_one_bounded_offset_per_channel() -> None:
    torch.manual_seed(0)
    flat = torch.full((3, 8, 8), 128, dtype=torch.uint8)
    offsets = torch.stack([augment.shift_rgb(flat).to(torch.int16) - 128 for _ in range(200)])
    assert (offsets == offsets[:, :, :1, :1]).all()
    assert offsets.abs().max() <= augment.RGB_SHIFT
    assert offsets.min() < -10
    assert offsets.max() > 10
    assert augment.shift_rgb(torch.full((3, 2, 2), 255, dtype=torch.uint8)).min() >= 255 - augment.RGB_SHIFT


@pytest.mark.parametrize(
    ("size", "mode", "is_changed"),
    [
        ((512, 512), "RGB", False),
        ((512, 40), "L", False),
        ((600, 450), "RGB", True),
        ((20, 513), "L", True),
        ((16, 16), "I;16", True),
    ],
)
def test_images_that_version_0_1_decoded_otherwise_are_marked(
    tmp_path: Path, size: tuple[int, int], mode: str, is_changed: bool
) -> None:
    path = tmp_path / "image.png"
    Image.new(mode, size).save(path)

    assert bool(pixels_version(path)) is is_changed
    assert pixels_version(path.read_bytes()) == pixels_version(path)
