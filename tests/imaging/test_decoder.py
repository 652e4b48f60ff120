"""Uploads, kind and hostile: what is decoded, what is refused, what is kept of it."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dermnote_contracts.problems import ImageRefused
from dermnote_retrieval.ingest.images import decode, open_stored, store_form

LIMITS = {"max_pixels": 1_000_000, "bound_px": 512}


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def noise(size: tuple[int, int] = (96, 80)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


HOSTILE = {
    "zero bytes": b"",
    "a text file": b"this is no image at all, whatever its name says",
    "a truncated JPEG": encoded(noise(), "JPEG")[:900],
    "a truncated PNG": encoded(noise(), "PNG")[:2000],
    "a truncated WebP": encoded(noise(), "WEBP")[:300],
    "a flipped byte in a PNG": encoded(noise(), "PNG").replace(b"IDAT", b"IDAU", 1),
    "a PNG bomb": png_header(50_000, 50_000),
    "a bomb within Pillow's own limit": png_header(9_000, 9_000),
    "a GIF": encoded(noise(), "GIF"),
    "a TIFF": encoded(noise(), "TIFF"),
    "an animated WebP": encoded(noise(), "WEBP", save_all=True, append_images=[Image.new("RGB", (96, 80))]),
    "an animated PNG": encoded(noise(), "PNG", save_all=True, append_images=[Image.new("RGB", (96, 80))]),
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_are_refused_and_nothing_is_stored(client: Any, name: str) -> None:
    files = {"image": ("lesion.jpg", HOSTILE[name], "image/jpeg")}

    for answer in (client.put("/items/a", files=files), client.post("/search", files=files)):
        assert (answer.status_code, answer.json()["code"]) == (422, "image-refused"), answer.text
    assert client.get("/items/a").status_code == 404


def test_every_byte_cut_is_an_image_or_refused() -> None:
    for whole in (encoded(noise((16, 12)), "JPEG"), encoded(noise((16, 12)), "PNG"), encoded(noise((16, 12)), "WEBP")):
        for end in range(0, len(whole), 7):
            try:
                assert decode(whole[:end], **LIMITS).size == (16, 12)
            except ImageRefused:
                continue


def test_flipped_bytes_are_an_image_or_refused() -> None:
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


def test_too_many_pixels_are_refused_by_the_setting(serve: Any, paint: Any) -> None:
    client = serve(max_pixels=10_000)

    assert client.put("/items/a", files={"image": paint(size=(100, 100))}).status_code == 201
    answer = client.put("/items/b", files={"image": paint(size=(101, 100))})
    assert (answer.status_code, "10000 pixels" in answer.json()["detail"]) == (422, True)


def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    exif[0x010E] = "patient name"
    return exif.tobytes()


def test_a_turned_photo_is_stored_upright_and_without_exif() -> None:
    picture = Image.new("RGB", (60, 40), "blue")
    picture.paste("red", (0, 0, 30, 40))  # left half red: on top once turned right
    decoded = decode(encoded(picture, "JPEG", exif=exif_turned(), quality=95), **LIMITS)
    kept = store_form(decoded)

    assert decoded.size == (40, 60)
    assert b"patient name" not in kept.image + kept.thumbnail
    upright = open_stored(kept.image)
    assert not upright.getexif()
    assert upright.getpixel((20, 5))[0] > 200  # type: ignore[index]
    assert upright.getpixel((20, 55))[2] > 200  # type: ignore[index]


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_exif_never_reaches_the_thumbnail(client: Any, form: str) -> None:
    client.put("/items/a", files={"image": encoded(noise(), form, exif=exif_turned())})

    assert b"patient name" not in client.get("/items/a/image").content


@pytest.mark.parametrize(
    ("mode", "form"),
    [("CMYK", "JPEG"), ("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")],
)
def test_every_mode_becomes_rgb(mode: str, form: str) -> None:
    image = decode(encoded(Image.new("RGB", (40, 30), (200, 200, 200)).convert(mode), form), **LIMITS)

    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image, dtype=int) - (255 if mode == "1" else 200)).mean() < 60


def test_transparent_palettes_are_taken() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])

    assert decode(encoded(palette, "PNG", transparency=bytes([0, 255])), **LIMITS).getpixel((3, 3)) == (255, 0, 0)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None, :].repeat(8, axis=0)
    image = decode(encoded(Image.fromarray(ramp), "PNG"), **LIMITS)

    assert np.array_equal(np.asarray(image)[0, :, 0], ramp[0] // 257)


def test_what_is_stored_is_bounded() -> None:
    decoded = decode(encoded(noise((900, 300)), "JPEG"), **LIMITS)

    assert decoded.size == (512, 171)
    assert open_stored(store_form(decoded).image).size == (512, 171)


def test_a_large_photo_is_decoded_smaller_and_looks_the_same() -> None:
    smooth = noise((40, 30)).resize((4000, 3000), Image.Resampling.BICUBIC)
    upload = encoded(smooth, "JPEG", quality=95, subsampling=0)

    image = decode(upload, max_pixels=12_000_000, bound_px=512)

    whole = Image.open(io.BytesIO(upload)).convert("RGB")
    whole.thumbnail((512, 512), Image.Resampling.LANCZOS)
    assert image.size == whole.size == (512, 384)
    assert np.abs(np.asarray(image, np.int16) - np.asarray(whole, np.int16)).mean() < 1


def test_an_image_of_one_pixel_can_be_stored_and_found(client: Any, put: Any, paint: Any) -> None:
    put(client, "dot", image=paint(size=(1, 1)))
    put(client, "line", image=paint(size=(3000, 1)))

    hits = client.post("/search", files={"image": paint(size=(1, 1))}).json()["hits"]
    assert {hit["id"] for hit in hits} == {"dot", "line"}
