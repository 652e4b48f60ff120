"""Features of views: equal to the pretrained tower's, cached in files, and recomputed if a file is damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from dermnote_train.data.records import Record
from dermnote_train.models import images, towers
from dermnote_train.study.cells import views
from dermnote_train.study.cells.views import view_features

ToyRecords = Callable[..., tuple[Record, ...]]


@pytest.fixture(scope="module")
def small() -> towers.Towers:
    return towers.lite(image_size=32)


@pytest.fixture
def records(toy_records: ToyRecords, monkeypatch: pytest.MonkeyPatch) -> tuple[Record, ...]:
    """Nine images, four per file."""
    monkeypatch.setattr(views, "CHUNK", 4)
    return toy_records(3)


def test_the_first_view_is_not_augmented(small: towers.Towers, records: tuple[Record, ...], tmp_path: Path) -> None:
    features = view_features(records, towers=small, views=2, cache_dir=tmp_path / "views")
    assert features.shape == (9, 3, small.image_features)
    with torch.inference_mode():
        plain = small.encode_images(images.decode(records, preprocessing=small.preprocessing))
    assert torch.allclose(features[:, 0].float(), plain, atol=1e-2)
    assert not torch.equal(features[:, 1], features[:, 0])


def test_cached_features_are_not_recomputed(
    small: towers.Towers, records: tuple[Record, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = view_features(records, towers=small, views=1, cache_dir=tmp_path / "views")
    assert len(list((tmp_path / "views").iterdir())) == 3
    monkeypatch.setattr(images, "decode", lambda *_, **__: pytest.fail("it was recomputed"))
    assert torch.equal(view_features(records, towers=small, views=1, cache_dir=tmp_path / "views"), first)


def test_a_damaged_file_is_recomputed_with_the_same_result(
    small: towers.Towers, records: tuple[Record, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = view_features(records, towers=small, views=1, cache_dir=tmp_path / "views")
    torn = sorted((tmp_path / "views").iterdir())[1]
    torn.write_bytes(torn.read_bytes()[:100])
    assert torch.equal(view_features(records, towers=small, views=1, cache_dir=tmp_path / "views"), first)
    assert "damaged" in caplog.text


def test_another_image_or_number_of_views_is_not_read_from_the_cache(
    small: towers.Towers, records: tuple[Record, ...], tmp_path: Path
) -> None:
    first = view_features(records[:1], towers=small, views=1, cache_dir=tmp_path / "views")
    records[0].image_path.write_bytes(records[1].image_path.read_bytes())
    assert not torch.equal(view_features(records[:1], towers=small, views=1, cache_dir=tmp_path / "views"), first)
    assert view_features(records[:1], towers=small, views=2, cache_dir=tmp_path / "views").shape[1] == 3


def test_features_of_other_pixels_are_not_read_from_the_cache(
    records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 0.1.0 decoded the same file to other pixels if it is larger than 512 pixels."""
    Image.open(records[0].image_path).resize((600, 450)).save(records[0].image_path)
    large, small = (views._key([record], settings=()) for record in records[:2])
    monkeypatch.setattr(views, "pixels_version", lambda _: "")
    earlier_large, earlier_small = (views._key([record], settings=()) for record in records[:2])

    assert large != earlier_large
    assert small == earlier_small


def test_strong_views_differ_and_zero_views_are_the_image_alone(
    small: towers.Towers, records: tuple[Record, ...], tmp_path: Path
) -> None:
    kept = tmp_path / "views"
    mild = view_features(records, towers=small, views=1, cache_dir=kept)
    strong = view_features(records, towers=small, views=1, kind="strong", cache_dir=kept)
    none = view_features(records, towers=small, views=0, cache_dir=kept)
    assert torch.equal(mild[:, 0], strong[:, 0])
    assert not torch.equal(mild[:, 1], strong[:, 1])
    assert none.shape == (9, 1, small.image_features)
