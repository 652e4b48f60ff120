"""Checkpoints: a round trip keeps the model, and damaged or foreign files are rejected."""

from pathlib import Path

import pytest
import torch

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.config import TrainConfig
from dermnote_train.data.records import Record, Split
from dermnote_train.errors import UserError
from dermnote_train.models import checkpoint
from dermnote_train.models.checkpoint import build_model, load_checkpoint, save_checkpoint
from dermnote_train.models.model import LesionModel

CONFIG = TrainConfig(image_size=32)
RECORDS = tuple(Record(f"img-{n}", Path(f"{n}.jpg"), f"group-{n}", "nevus", LesionMetadata()) for n in range(6))
SPLIT = Split(train=RECORDS[:3], val=RECORDS[3:4], test=RECORDS[4:], seed=0)


@pytest.fixture
def model() -> LesionModel:
    torch.manual_seed(1)
    model = build_model(CONFIG, classes=("nevus", "melanoma"), with_notes=True)
    with torch.no_grad():
        next(model.towers.visual.parameters()).add_(0.1)
    return model.eval()


def test_a_saved_model_is_restored(model: LesionModel, tmp_path: Path) -> None:
    save_checkpoint(model, config=CONFIG, split=SPLIT, epoch=3, run_dir=tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.classes == ("nevus", "melanoma")
    assert loaded.with_notes
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded.image_branch(pixels).logits, model.image_branch(pixels).logits)


def test_the_frozen_text_tower_is_not_stored(model: LesionModel, tmp_path: Path) -> None:
    path = save_checkpoint(model, config=CONFIG, split=SPLIT, epoch=1, run_dir=tmp_path)
    assert not [name for name in checkpoint.read_state(path) if "clip.text." in name]
    assert path.stat().st_size < 20e6


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint_is_rejected(model: LesionModel, tmp_path: Path, share: float) -> None:
    path = save_checkpoint(model, config=CONFIG, split=SPLIT, epoch=1, run_dir=tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_checkpoint(tmp_path)


def test_a_failed_write_keeps_the_old_checkpoint(
    model: LesionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(model, config=CONFIG, split=SPLIT, epoch=1, run_dir=tmp_path)
    before = path.read_bytes()

    def disk_full(_: object, partial: Path, **__: object) -> None:
        partial.write_bytes(before[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(model, config=CONFIG, split=SPLIT, epoch=2, run_dir=tmp_path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_folder_without_a_model_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `dermnote train` first"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_text_tower_is_rejected(model: LesionModel, tmp_path: Path) -> None:
    model.towers.text_id = "0" * 64
    save_checkpoint(model, config=CONFIG, split=SPLIT, epoch=1, run_dir=tmp_path)
    with pytest.raises(UserError, match="another text tower"):
        load_checkpoint(tmp_path)


def test_a_model_of_another_split_is_rejected(model: LesionModel, tmp_path: Path) -> None:
    save_checkpoint(model, config=CONFIG, split=SPLIT, epoch=1, run_dir=tmp_path)
    reordered = Split(train=SPLIT.train[::-1], val=SPLIT.val, test=SPLIT.test, seed=0)
    assert load_checkpoint(tmp_path, split=reordered).classes == model.classes
    leaking = Split(train=RECORDS[3:], val=RECORDS[2:3], test=RECORDS[:2], seed=1)
    with pytest.raises(UserError, match="not trained on the split"):
        load_checkpoint(tmp_path, split=leaking)
