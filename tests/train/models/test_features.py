"""Text features: computed once per distinct text, cached between runs, and recomputed if the cache is damaged."""

from pathlib import Path

import pytest
import torch

from dermnote_train.models.features import text_features
from dermnote_train.models.towers import Towers
from dermnote_train.progress import Step

NOTES = ["a benign lesion, nevus", "a malignant lesion, melanoma", "a benign lesion, nevus"]


def _count_computed(steps: list[Step]) -> int:
    return steps[-1].done if steps else 0


def test_equal_texts_are_computed_once_and_get_the_same_row(lite_towers: Towers) -> None:
    steps: list[Step] = []
    features = text_features(NOTES, towers=lite_towers, progress=steps.append)
    assert features.shape == (3, 384)
    assert torch.equal(features[0], features[2])
    assert _count_computed(steps) == 2


def test_features_equal_the_tower_output(lite_towers: Towers) -> None:
    features = text_features(NOTES, towers=lite_towers)
    torch.testing.assert_close(features[1], lite_towers.encode_texts([NOTES[1]])[0], atol=1e-5, rtol=1e-4)


def test_a_second_run_computes_only_new_features(lite_towers: Towers, tmp_path: Path) -> None:
    first = text_features(NOTES, towers=lite_towers, cache_dir=tmp_path)
    steps: list[Step] = []
    second = text_features([*NOTES, "a new note"], towers=lite_towers, cache_dir=tmp_path, progress=steps.append)
    assert _count_computed(steps) == 1
    assert torch.equal(first, second[:3])
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("damage", [b"", b"not a cache", None])
def test_a_damaged_cache_is_recomputed(lite_towers: Towers, tmp_path: Path, damage: bytes | None) -> None:
    first = text_features(NOTES, towers=lite_towers, cache_dir=tmp_path)
    (cache,) = tmp_path.iterdir()
    cache.write_bytes(cache.read_bytes()[:-100] if damage is None else damage)
    steps: list[Step] = []
    again = text_features(NOTES, towers=lite_towers, cache_dir=tmp_path, progress=steps.append)
    assert _count_computed(steps) == 2
    torch.testing.assert_close(first, again)


def test_no_texts_give_no_features(lite_towers: Towers) -> None:
    assert text_features([], towers=lite_towers).shape == (0, 384)
