"""Files that are not images, or truncated ones, are detected."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.images import ImageFolder, check_decodable, decode_fault, header_fault, undecodable
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.progress import Step

FORMATS = ("JPEG", "PNG", "WEBP")


def _encoded(form: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size but has no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def _record(path: Path) -> Record:
    return Record(path.stem, path, path.stem, "NEV", LesionMetadata())


@pytest.mark.parametrize("form", FORMATS)
def test_complete_images_have_no_fault(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(form))
    assert header_fault(path) is None
    assert decode_fault(path) is None


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_image_is_a_fault_and_never_a_crash(tmp_path: Path, form: str) -> None:
    path, complete = tmp_path / "a.jpg", _encoded(form)
    last = len(complete) * 9 // 10
    for length in [*range(40), *range(40, last, max(1, last // 60))]:
        path.write_bytes(complete[:length])
        fault = header_fault(path) or decode_fault(path)
        assert fault is not None
        assert fault.startswith("a.jpg ")
        assert fault.endswith("; replace the file")


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes_never_crash_the_check(tmp_path: Path, form: str) -> None:
    path, complete = tmp_path / "a.jpg", bytearray(_encoded(form))
    rng = np.random.default_rng(1)
    faults = 0
    for _ in range(150):
        damaged = complete.copy()
        for place in rng.integers(0, len(complete), 6):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        faults += (header_fault(path) or decode_fault(path)) is not None
    assert faults > 0


def test_an_unsupported_format_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded("GIF"))
    assert header_fault(path) == "a.jpg is not a usable image (not a JPEG, PNG or WebP image); replace the file"


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (10_000, 10_000)])
def test_an_image_with_too_many_pixels_is_a_fault_before_it_is_decoded(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png_header(width, height))
    assert header_fault(path) == f"a.png has {width}x{height} pixels, more than 50 million; make it smaller"
    path.write_bytes(_png_header(10_000, 5_000))
    assert header_fault(path) is None


def test_an_image_with_an_absurd_size_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png_header(2_000_000, 2_000_000))
    assert header_fault(path) == "a.png has 2000000x2000000 pixels, more than 50 million; make it smaller"


def test_a_png_with_a_decompression_bomb_in_its_text_is_a_fault(tmp_path: Path) -> None:
    path, text = tmp_path / "a.png", PngImagePlugin.PngInfo()
    text.add_text("remark", "0" * 3_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(path, pnginfo=text)
    assert (
        header_fault(path)
        == "a.png is not a usable image (the image header is damaged or incomplete); replace the file"
    )


def test_broken_images_are_found_and_counted(tmp_path: Path) -> None:
    names = ("a.jpg", "b.jpg", "c.jpg")
    for name in names:
        (tmp_path / name).write_bytes(_encoded("JPEG")[: None if name == "b.jpg" else 500])
    records, steps = [_record(tmp_path / name) for name in names], list[Step]()
    damaged = undecodable(records, progress=steps.append)
    assert [record.image_id for record, _ in damaged] == ["a", "c"]
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(UserError) as raised:
        check_decodable(records)
    assert str(raised.value) == (
        f"{tmp_path}: a.jpg cannot be decoded (the image is damaged or incomplete, 500 bytes); "
        "replace the file (and 1 more)"
    )
    check_decodable(records[1:2])


def test_a_name_with_folders_means_exactly_that_file(tmp_path: Path) -> None:
    for place in ("mel", "images/nev", "nev", "images"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "1.jpg").write_bytes(_encoded("JPEG"))
    images = ImageFolder(tmp_path)
    assert images.find("mel/1.jpg") == images.find("mel/1.png") == tmp_path / "mel/1.jpg"
    assert images.find("nev/1.jpg") == tmp_path / "images/nev/1.jpg"
    assert images.find("1.jpg") == tmp_path / "images/1.jpg"
    assert images.find("bcc/1.jpg") is None


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    folder.mkdir()
    (outside / "a.jpg").write_bytes(_encoded("JPEG"))
    (folder / "link").symlink_to(outside, target_is_directory=True)
    assert ImageFolder(folder).find("link/a.jpg") is None
    assert ImageFolder(folder).find("../outside/a.jpg") is None
