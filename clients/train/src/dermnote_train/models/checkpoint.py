"""A model's weights and description in one safetensors file, so that the two cannot disagree. No pickle.

The frozen text tower is not stored: the file holds its id, which must match on loading.
"""

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dermnote_train.config import StrictModel, TrainConfig
from dermnote_train.data.records import Split
from dermnote_train.errors import UserError
from dermnote_train.files import atomic_write
from dermnote_train.models import towers
from dermnote_train.models.model import LesionModel

CHECKPOINT_NAME = "model.safetensors"
FROZEN_PREFIXES = ("towers.clip.text.", "towers.clip.logit_")


class CheckpointInfo(StrictModel):
    """Metadata of a checkpoint. `epoch`: the epoch of its weights, counted from 1.

    `split_id` identifies the training split, so that the test part of another split is never taken for held-out data.
    """

    format: int = 1
    config: TrainConfig
    classes: tuple[str, ...]
    with_notes: bool
    text_id: str
    epoch: int
    split_id: str


def split_id(split: Split) -> str:
    """sha256 over the image ids of each part."""
    parts = {"train": split.train, "val": split.val, "test": split.test}
    ids = {name: sorted(record.image_id for record in records) for name, records in parts.items()}
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def build_model(config: TrainConfig, *, classes: tuple[str, ...], with_notes: bool) -> LesionModel:
    """A model with pretrained towers and a randomly initialised head, on the CPU."""
    return LesionModel(towers.load(config.preset, image_size=config.image_size), classes=classes, with_notes=with_notes)


def save_checkpoint(model: LesionModel, *, config: TrainConfig, split: Split, epoch: int, run_dir: Path) -> Path:
    """Write run_dir/model.safetensors atomically; returns its path."""
    info = CheckpointInfo(
        config=config,
        classes=model.classes,
        with_notes=model.with_notes,
        text_id=model.towers.text_id,
        epoch=epoch,
        split_id=split_id(split),
    )
    path = run_dir / CHECKPOINT_NAME
    with atomic_write(path) as partial:
        save_file(learned_state(model), partial, metadata={"dermnote": info.model_dump_json()})
    return path


def load_checkpoint(run_dir: Path, *, split: Split | None = None) -> LesionModel:
    """Load the model that `save_checkpoint` wrote, on the CPU, in evaluation mode.

    split: verified against the split that the model was trained on. Raises UserError if the file is unusable or the
    splits differ.
    """
    info, state = _read(run_dir / CHECKPOINT_NAME)
    if split is not None and split_id(split) != info.split_id:
        raise UserError(f"{run_dir}: the model was not trained on the split in this folder; train again")
    model = build_model(info.config, classes=info.classes, with_notes=info.with_notes)
    if model.towers.text_id != info.text_id:
        raise UserError(f"{run_dir}: the model was trained with another text tower than the installed one; train again")
    restore(model, state)
    return model.eval()


def restore(model: LesionModel, state: dict[str, Tensor]) -> None:
    """Load learned weights into a model of the same shape."""
    model.load_state_dict(model.state_dict() | state)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file."""
    return _read(path)[1]


def _read(path: Path) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as stored:
            info = CheckpointInfo.model_validate_json((stored.metadata() or {}).get("dermnote", ""))
            return info, {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no trained model found; run `dermnote train` first") from error
    except (SafetensorError, ValidationError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"{path}: damaged checkpoint, or one of another version; train again") from error


def learned_state(model: LesionModel) -> dict[str, Tensor]:
    """All weights except the frozen text tower's, as contiguous copies on the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(FROZEN_PREFIXES)
    }
