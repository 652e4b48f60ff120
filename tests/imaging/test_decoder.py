"""The decoder: rejected uploads, decoded pixels, and the stored form of an image."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from dermnote_contracts.problems import ImageRefused
from dermnote_imaging.decoder import decode, read_header
from dermnote_imaging.stored import StoredImage, open_stored
from tests.imaging.samples import HOSTILE, UNUSUAL, encoded, exif_turned, noise, png_header

LIMITS = {"max_pixels": 1_000_000, "bound_px": 512}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_rejected(name: str) -> None:
    with pytest.raises(ImageRefused):
        decode(HOSTILE[name], **LIMITS)


@pytest.mark.parametrize("action", ["error", "always", "ignore"])
def test_a_decompression_bomb_is_rejected_under_any_warning_filter(action: str) -> None:
    """100 million pixels: Pillow itself only warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)  # type: ignore[arg-type]
        with pytest.raises(ImageRefused, match="10000x10000 pixels exceed the limit of 40000000 pixels"):
            decode(png_header(10_000, 10_000), max_pixels=40_000_000)
        assert read_header(png_header(10_000, 10_000)).width == 10_000
    assert not caught


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_header_has_the_format_and_size_of_the_file(name: str) -> None:
    header = read_header(UNUSUAL[name])
    with Image.open(io.BytesIO(UNUSUAL[name])) as image:
        assert (header.width, header.height) == image.size
        assert header.format == {"MPO": "JPEG"}.get(image.format or "", image.format)


def test_a_truncated_file_is_decoded_or_rejected() -> None:
    for whole in (encoded(noise((16, 12)), "JPEG"), encoded(noise((16, 12)), "PNG"), encoded(noise((16, 12)), "WEBP")):
        for end in range(0, len(whole), 7):
            try:
                assert decode(whole[:end], **LIMITS).size == (16, 12)
            except ImageRefused:
                continue


def test_a_file_with_flipped_bytes_is_decoded_or_rejected() -> None:
    draw = np.random.default_rng(1)
    for form in ("JPEG", "PNG", "WEBP"):
        whole = encoded(noise((24, 16)), form, **({"exif": exif_turned()} if form != "PNG" else {}))
        for _ in range(150):
            data = bytearray(whole)
            for place in draw.integers(0, len(data), 4):
                data[place] = draw.integers(0, 256)
            try:
                decode(bytes(data), **LIMITS)
            except ImageRefused:
                continue


def test_a_rotated_photo_is_stored_upright_and_without_exif() -> None:
    photo = Image.new("RGB", (60, 40), "blue")
    photo.paste("red", (0, 0, 30, 40))  # left half red: on top after the rotation
    decoded = decode(encoded(photo, "JPEG", exif=exif_turned(), quality=95), **LIMITS)
    stored = StoredImage.of(decoded)

    assert decoded.size == (40, 60)
    assert b"patient name" not in stored.jpeg + stored.thumbnail
    upright = open_stored(stored.jpeg)
    assert not upright.getexif()
    assert upright.getpixel((20, 5))[0] > 200  # type: ignore[index]
    assert upright.getpixel((20, 55))[2] > 200  # type: ignore[index]


@pytest.mark.parametrize(
    ("mode", "form"),
    [("CMYK", "JPEG"), ("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")],
)
def test_every_mode_becomes_rgb(mode: str, form: str) -> None:
    image = decode(encoded(Image.new("RGB", (40, 30), (200, 200, 200)).convert(mode), form), **LIMITS)

    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image, dtype=int) - (255 if mode == "1" else 200)).mean() < 60


def test_transparent_palettes_are_decoded() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])

    assert decode(encoded(palette, "PNG", transparency=bytes([0, 255])), **LIMITS).getpixel((3, 3)) == (255, 0, 0)


def test_16_bit_values_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None, :].repeat(8, axis=0)
    image = decode(encoded(Image.fromarray(ramp), "PNG"), **LIMITS)

    assert np.array_equal(np.asarray(image)[0, :, 0], ramp[0] // 257)


def test_the_longer_side_is_bounded() -> None:
    decoded = decode(encoded(noise((900, 300)), "JPEG"), **LIMITS)

    assert decoded.size == (512, 171)
    assert open_stored(StoredImage.of(decoded).jpeg).size == (512, 171)


def test_a_large_photo_is_decoded_smaller_and_looks_the_same() -> None:
    smooth = noise((40, 30)).resize((4000, 3000), Image.Resampling.BICUBIC)
    upload = encoded(smooth, "JPEG", quality=95, subsampling=0)

    image = decode(upload, max_pixels=12_000_000, bound_px=512)

    whole = Image.open(io.BytesIO(upload)).convert("RGB")
    whole.thumbnail((512, 512), Image.Resampling.LANCZOS)
    assert image.size == whole.size == (512, 384)
    assert np.abs(np.asarray(image, np.int16) - np.asarray(whole, np.int16)).mean() < 1
