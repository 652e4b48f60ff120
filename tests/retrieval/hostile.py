"""300 uploads that the service must reject, generated deterministically.

python -m tests.retrieval.hostile FOLDER writes them as files.
"""

import io
import itertools
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
COUNT = 300
FOREIGN = ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PCX", "JPEG2000", "PDF", "EPS")


def hostile() -> Iterator[tuple[str, bytes]]:
    """(name, content), COUNT of them."""
    draw = random.Random(20261127)
    makers: list[Callable[[random.Random, int], Iterator[tuple[str, bytes]]]] = [
        _nothing,
        _noise,
        _truncated,
        _foreign,
        _animated,
        _bombs,
        _damaged_pngs,
        _lying_headers,
        _other_files,
    ]
    again = itertools.chain.from_iterable((_noise, _damaged_pngs, _truncated) for _ in itertools.count())
    seen: set[bytes] = set()
    for number, maker in enumerate(itertools.chain(makers, again)):
        for name, content in maker(draw, number):
            if content not in seen:
                seen.add(content)
                yield name, content
            if len(seen) == COUNT:
                return


def _picture(draw: random.Random, size: tuple[int, int] = (96, 72)) -> Image.Image:
    pixels = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)  # type: ignore[arg-type]
    return out.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def _nothing(_: random.Random, __: int) -> Iterator[tuple[str, bytes]]:
    yield "empty.png", b""
    yield "one-byte.jpg", b"\xff"
    yield "zeros.webp", bytes(4096)
    yield "signature-only.png", PNG
    yield "signature-only.jpg", b"\xff\xd8\xff"
    yield "signature-only.webp", b"RIFF\x00\x00\x00\x00WEBP"


def _noise(draw: random.Random, number: int) -> Iterator[tuple[str, bytes]]:
    for start in (b"", PNG, b"\xff\xd8\xff\xe0", b"RIFF\xff\xff\xff\x7fWEBPVP8 "):
        yield f"noise-{number}-{start[:4].hex()}", start + draw.randbytes(draw.randrange(16, 5000))


def _truncated(draw: random.Random, number: int) -> Iterator[tuple[str, bytes]]:
    for form in ("JPEG", "PNG", "WEBP"):
        whole = _encoded(_picture(draw), form)
        for share in (0.1, 0.4, 0.7):
            yield f"truncated-{number}-{share}.{form.lower()}", whole[: int(len(whole) * share)]


def _foreign(draw: random.Random, _: int) -> Iterator[tuple[str, bytes]]:
    for form in FOREIGN:
        yield f"foreign.{form.lower()}.png", _encoded(_picture(draw), form)


def _animated(draw: random.Random, _: int) -> Iterator[tuple[str, bytes]]:
    frames = [_picture(draw) for _ in range(3)]
    for form in ("PNG", "WEBP", "GIF"):
        yield (
            f"animated.{form.lower()}",
            _encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=40),
        )


def _bombs(_: random.Random, __: int) -> Iterator[tuple[str, bytes]]:
    """A few bytes that would decompress to gigabytes."""
    for width, height in ((60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (40_001, 1_000), (2**31 - 1, 2**31 - 1)):
        rows = zlib.compress(bytes(1 << 20), 9)
        yield f"bomb-{width}x{height}.png", PNG + _header(width, height) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    huge = zlib.compress(bytes(300_000_000), 9)
    for kind, head in ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"p\0\0")):
        yield (
            f"bomb-in-{kind.decode()}.png",
            PNG + _header(60_000, 60_000) + _chunk(kind, head + huge) + _chunk(b"IDAT", zlib.compress(b"")),
        )
    frame = struct.pack(">HBHHB", 17, 8, 65_500, 65_500, 3) + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
    yield "bomb.jpg", b"\xff\xd8\xff\xc0" + frame + b"\xff\xd9"
    wide = bytes([0x10, 0, 0, 0]) + (16_383).to_bytes(3, "little") + (16_383).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + wide
    yield "bomb.webp", b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _damaged_pngs(draw: random.Random, number: int) -> Iterator[tuple[str, bytes]]:
    """One flipped bit: a checksum, a length or the signature covers every byte of a PNG."""
    whole = _encoded(_picture(draw, (24, 18)), "PNG")
    for _ in range(8):
        place, bit = draw.randrange(len(whole) - 12), draw.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        yield f"flipped-{number}-{place}-{bit}.png", bytes(damaged)


def _lying_headers(draw: random.Random, _: int) -> Iterator[tuple[str, bytes]]:
    data, end = _chunk(b"IDAT", zlib.compress(bytes(100))), _chunk(b"IEND", b"")
    yield "no-width.png", PNG + _header(0, 10) + data + end
    yield "no-height.png", PNG + _header(10, 0) + data + end
    yield "depth-3.png", PNG + _header(4, 4, depth=3) + data + end
    yield "colour-5.png", PNG + _header(4, 4, colour=5) + data + end
    yield "no-data.png", PNG + _header(40, 40) + end
    yield "no-header.png", PNG + data + end
    yield "no-zlib.png", PNG + _header(40, 40) + _chunk(b"IDAT", draw.randbytes(400)) + end
    yield "too-few-rows.png", PNG + _header(400, 400) + data + end
    yield "chunk-of-4-gib.png", PNG + _header(40, 40) + struct.pack(">I", 2**32 - 1) + b"IDAT" + bytes(40)
    yield "no-palette.png", PNG + _header(10, 10, colour=3) + data + end
    for height, components in ((0, 3), (10, 0), (10, 255)):
        frame = struct.pack(">HBHHB", 8 + 3 * (components % 4), 8, height, 10, components) + bytes(3 * (components % 4))
        yield f"frame-{height}-{components}.jpg", b"\xff\xd8\xff\xc0" + frame + b"\xff\xd9"
    yield "segment-too-long.jpg", b"\xff\xd8\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(20)
    yield "only-exif.jpg", b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + 6 + 8) + b"Exif\0\0MM\0*\0\0\0\x08\xff\xd9"
    yield (
        "riff-lies.webp",
        b"RIFF" + struct.pack("<I", 2**31) + b"WEBPVP8L" + struct.pack("<I", 2**31) + b"\x2f" + bytes(9),
    )


def _other_files(draw: random.Random, _: int) -> Iterator[tuple[str, bytes]]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.png", _encoded(_picture(draw), "PNG"))
    jpeg = _encoded(_picture(draw), "JPEG")
    yield "archive.png", out.getvalue()
    yield "gif-before-jpeg.jpg", b"GIF89a" + jpeg
    yield "html-before-jpeg.jpg", b"<script>alert(1)</script>" + jpeg
    yield "picture.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "script.png", b"#!/bin/sh\necho\n"
    yield "link.png", b"http://127.0.0.1:8002/items"
    yield "program.jpg", b"\x7fELF" + bytes(2000)
    yield "percent.pdf", b"%PDF-1.7\n" + jpeg
    yield "text.webp", "Zażółć gęślą jaźń".encode("utf-16")


def main() -> None:
    """Write the files to a folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, content) in enumerate(hostile()):
        (folder / f"{number:03}-{name}").write_bytes(content)


if __name__ == "__main__":
    main()
