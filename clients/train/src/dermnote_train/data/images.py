"""Finds the image file of a row and checks that it can be decoded."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dermnote_contracts.problems import ImageRefused
from dermnote_imaging.decoder import BOUND_PX, RgbImage, decode, read_header
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.progress import Report, silent, track

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 50_000_000


class ImageFolder:
    """Image files of a data folder: first in `images/`, then in the folder itself, then in its other subfolders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        others = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "images")
        self._by_name: dict[str, Path] = {}
        for place in (folder / "images", folder, *others):
            if place.is_dir():
                for path in place.iterdir():
                    self._by_name.setdefault(path.name, path)

    def find(self, name: str) -> Path | None:
        """The file with this name, with or without suffix; None if the folder has no such file.

        A name with a folder (a/1.jpg) is searched for only in that folder, since there may be a b/1.jpg too.
        """
        names = (name, *(without_suffix(name) + suffix for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES))))
        find = self._below if "/" in name else self._by_name.get
        return next((path for path in map(find, names) if path is not None), None)

    def _below(self, name: str) -> Path | None:
        root = self.folder.resolve()
        for path in (self.folder / "images" / name, self.folder / name):
            with suppress(OSError):  # the name is too long for a file
                if path.is_file() and path.resolve().is_relative_to(root):
                    return path
        return None


def without_suffix(name: str) -> str:
    """An image name without an image suffix; other dots belong to the name."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name


def decode_file(path: Path, *, bound_px: int = MAX_PIXELS) -> RgbImage:
    """An upright RGB image, by default at full size. Raises ImageRefused, and OSError for an unreadable file."""
    return decode(path.read_bytes(), max_pixels=MAX_PIXELS, bound_px=bound_px)


def pixels_version(image: bytes | Path) -> str:
    """Suffix for digests of what is computed from an image: empty if Dermnote 0.1.0 decoded the image to these pixels.

    The pixels differ if a side exceeds BOUND_PX or a channel has 16 bits. Raises ImageRefused, and OSError for a path.
    """
    header = read_header(image)
    changed = max(header.width, header.height) > BOUND_PX or header.mode.startswith("I")
    return "/pixels2" if changed else ""


def header_fault(path: Path) -> str | None:
    """Why a file is not a usable image, judging by its header alone; None if no fault is found."""
    try:
        header = read_header(path)
    except ImageRefused as error:
        return f"{path.name} is not a usable image ({error.detail}); replace the file"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror}); replace the file"
    width, height = header.width, header.height
    if width * height > MAX_PIXELS:
        return f"{path.name} has {width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million; make it smaller"
    return None


def decode_fault(path: Path) -> str | None:
    """Why a file cannot be decoded completely; None if it can."""
    try:
        data = path.read_bytes()
        decode(data, max_pixels=MAX_PIXELS)
    except ImageRefused as error:
        return f"{path.name} cannot be decoded ({error.detail}, {len(data)} bytes); replace the file"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror}); replace the file"
    return None


def undecodable(records: Sequence[Record], *, progress: Report = silent) -> list[tuple[Record, str]]:
    """Records whose image cannot be decoded, each with the reason."""
    faults = (decode_fault(record.image_path) for record in records)
    tracked = track(faults, stage="check images", total=len(records), progress=progress)
    return [(record, fault) for record, fault in zip(records, tracked, strict=True) if fault is not None]


def check_decodable(records: Sequence[Record], *, progress: Report = silent) -> None:
    """Raise UserError if any image cannot be decoded, with the first one and the number of others."""
    found = undecodable(records, progress=progress)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{found[0][0].image_path.parent}: {found[0][1]}{more}")
