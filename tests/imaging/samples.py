"""Image files for tests: hostile ones that must be rejected, and unusual ones that must be decoded."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and has almost no pixel data."""

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


def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    exif[0x010E] = "patient name"
    return exif.tobytes()


def _palette() -> Image.Image:
    palette = Image.new("P", (40, 30), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(0, (0, 0, 20, 15))
    return palette


def _transparent() -> Image.Image:
    image = noise().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


_RAMP = np.linspace(0, 65535, 64, dtype=np.uint16)[None, :].repeat(48, axis=0)
UNUSUAL = {
    "a large JPEG": encoded(noise((64, 48)).resize((2400, 1800)), "JPEG"),
    "a large PNG": encoded(noise((64, 48)).resize((1300, 700)), "PNG"),
    "a progressive JPEG": encoded(noise(), "JPEG", progressive=True),
    "a rotated JPEG": encoded(noise(), "JPEG", exif=exif_turned()),
    "a large rotated JPEG": encoded(noise((64, 48)).resize((1600, 900)), "JPEG", exif=exif_turned()),
    "a rotated WebP": encoded(noise(), "WEBP", exif=exif_turned()),
    "a JPEG of two images": encoded(noise(), "MPO", save_all=True, append_images=[Image.new("RGB", (96, 80))]),
    "a CMYK JPEG": encoded(noise().convert("CMYK"), "JPEG"),
    "a grey JPEG": encoded(noise().convert("L"), "JPEG"),
    "a bilevel PNG": encoded(noise().convert("1"), "PNG"),
    "a 16-bit PNG": encoded(Image.fromarray(_RAMP), "PNG"),
    "a palette PNG": encoded(_palette(), "PNG"),
    "a palette PNG with a transparent colour": encoded(_palette(), "PNG", transparency=0),
    "a palette PNG with alpha": encoded(_palette(), "PNG", transparency=bytes([0, 128])),
    "a transparent PNG": encoded(_transparent(), "PNG"),
    "a transparent grey PNG": encoded(_transparent().convert("LA"), "PNG"),
    "a transparent WebP": encoded(_transparent(), "WEBP", lossless=True),
    "one pixel": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
    "a line": encoded(noise((3000, 1)), "PNG"),
}
