"""Near-duplicate images: re-encoded, smaller, cropped, brighter, mirrored or rotated; not those merely of one class."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.duplicates import find_duplicates, fingerprints
from dermnote_train.data.leakage import find_leakage
from dermnote_train.data.records import LesionDataset, Record, Split

Change = Callable[[Image.Image], Image.Image]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, ...]:
    folder = draw_dataset(tmp_path_factory.mktemp("twins") / "drawn", count=60)
    return tuple(record_of(path) for path in sorted((folder / "images").iterdir()))


def record_of(path: Path, *, group: str | None = None) -> Record:
    return Record(path.stem, path, group or path.stem, "NEV", LesionMetadata())


def saved(image: Image.Image, path: Path, *, quality: int = 92) -> Record:
    image.save(path, quality=quality)
    return record_of(path)


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((2, 1, width - 1, height - 2)).resize((width, height))


CHANGES: dict[str, tuple[Change, bool]] = {
    "saved again": (lambda image: image, False),
    "half the size": (lambda image: image.resize((112, 112)), False),
    "cropped": (cropped, False),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.12), False),
    "gray": (lambda image: image.convert("L"), False),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), True),
    "upside down": (lambda image: image.transpose(Image.Transpose.ROTATE_180), True),
    "a quarter turned": (lambda image: image.transpose(Image.Transpose.ROTATE_90), True),
    "transposed": (lambda image: image.transpose(Image.Transpose.TRANSVERSE), True),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_transformed_copy_is_found(images: tuple[Record, ...], tmp_path: Path, name: str) -> None:
    change, turned = CHANGES[name]
    originals = images[::6]
    copies = [
        saved(change(Image.open(record.image_path)), tmp_path / f"copy-{record.image_id}.jpg", quality=60)
        for record in originals
    ]

    duplicates = find_duplicates(fingerprints([*images, *copies]))

    assert {(pair.first.image_id, pair.second.image_id) for pair in duplicates} == {
        (record.image_id, f"copy-{record.image_id}") for record in originals
    }
    assert [pair.turned for pair in duplicates] == [turned] * len(originals)


def test_images_of_the_same_class_are_not_duplicates(images: tuple[Record, ...]) -> None:
    assert find_duplicates(fingerprints(images)) == ()


def test_two_sets_are_only_compared_with_each_other(images: tuple[Record, ...], tmp_path: Path) -> None:
    copy = saved(Image.open(images[3].image_path), tmp_path / "again.jpg")
    duplicates = find_duplicates(fingerprints([*images[:3], copy]), fingerprints(images[3:8]))
    assert [(pair.first.image_id, pair.second.image_id) for pair in duplicates] == [("again", images[3].image_id)]
    assert {one.first.image_id for one in find_duplicates(fingerprints(images[:5]), fingerprints(images[3:8]))} == {
        images[3].image_id,
        images[4].image_id,
    }
    assert find_duplicates((), fingerprints(images[:2])) == find_duplicates(fingerprints(images[:2]), ()) == ()


def test_duplicates_and_groups_across_a_split_are_found(images: tuple[Record, ...], tmp_path: Path) -> None:
    copy = saved(Image.open(images[0].image_path), tmp_path / "again.jpg")
    stranger = record_of(images[9].image_path, group=images[1].group)
    split = Split(train=(*images[:8], copy), val=(images[8],), test=(stranger, *images[10:12]), seed=0)
    inside = find_leakage((), [*split.train, *split.val, *split.test], split=split)
    assert (inside.groups_across, inside.duplicates_across, inside.crosses) == ((images[1].group,), (), True)
    assert [pair.second.image_id for pair in inside.duplicates] == ["again"]

    other_side = Split(train=images[:8], val=(images[8],), test=(copy,), seed=0)
    across = find_leakage((), [*other_side.train, *other_side.val, *other_side.test], split=other_side)
    assert (across.groups_across, len(across.duplicates_across), across.crosses) == ((), 1, True)

    clean = Split(train=images[:8], val=images[8:10], test=images[10:12], seed=0)
    assert not find_leakage((), images[:12], split=clean).crosses


def test_duplicates_in_another_data_set_are_found(images: tuple[Record, ...], tmp_path: Path) -> None:
    copy = saved(Image.open(images[2].image_path), tmp_path / "again.jpg")
    other = LesionDataset("other", (copy, *images[40:44]), ("NEV",), synthetic=True, licence="CC0-1.0")
    leaks = find_leakage((), images[:10], other=other)
    assert [(pair.first.image_id, pair.second.image_id) for pair in leaks.duplicates_with_other] == [
        (images[2].image_id, "again")
    ]
    assert leaks.crosses
