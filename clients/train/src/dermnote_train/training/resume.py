"""The complete state of an unfinished training run in one file, so that an interrupted run resumes exactly.

The file holds the weights, the optimiser's moments, the state of torch's generator, the position in the epoch and the
losses so far. It contains no pickle.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from dermnote_train.config import TrainConfig
from dermnote_train.data.images import pixels_version
from dermnote_train.data.records import Split
from dermnote_train.files import atomic_write
from dermnote_train.models import checkpoint
from dermnote_train.models.model import LesionModel

log = logging.getLogger(__name__)
RESUME_NAME = "resume.safetensors"
MODEL, OPTIMISER, GENERATOR = "model/", "optimiser/", "generator"


@dataclass
class RunState:
    """Position of a run: `epoch` (from 1), loss `terms` of that epoch's batches so far, `history` of earlier epochs."""

    epoch: int = 1
    terms: list[dict[str, float]] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


def run_key(
    config: TrainConfig, *, split: Split, classes: Sequence[str], notes: Mapping[str, str] | None, processes: int
) -> str:
    """sha256 of all inputs of a run; a run resumes only from a state with the same key."""
    texts = None if notes is None else [notes[record.image_id] for record in split.train]
    labels = [record.label for record in (*split.train, *split.val)]
    data = [checkpoint.split_id(split), list(classes), labels, texts]
    inputs = [config.model_dump_json(), data, processes, torch.__version__]
    versions = [pixels_version(record.image_path) for record in (*split.train, *split.val)]
    if any(versions):
        inputs.append(versions)
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def save_state(run_dir: Path, *, key: str, state: RunState, model: LesionModel, optimiser: Optimizer) -> None:
    """Write the state atomically."""
    tensors = {f"{MODEL}{name}": tensor for name, tensor in checkpoint.learned_state(model).items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{OPTIMISER}{number}/{name}": tensor.cpu().contiguous() for name, tensor in moments.items()}
    tensors[GENERATOR] = torch.get_rng_state()
    with atomic_write(run_dir / RESUME_NAME) as partial:
        save_file(tensors, partial, metadata={"key": key, "place": json.dumps(asdict(state))})


def load_state(run_dir: Path, *, key: str, model: LesionModel, optimiser: Optimizer) -> RunState:
    """Restore model, optimiser and generator; returns the saved state, or an initial one if this run has none."""
    path = run_dir / RESUME_NAME
    if not path.exists():
        return RunState()
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("key") != key:
                log.warning("%s belongs to a run with other settings, data or notes; starting from scratch", path)
                return RunState()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged (%s); starting from scratch", path, error)
        return RunState()
    checkpoint.restore(model, _with_prefix(tensors, MODEL))
    _restore_optimiser(optimiser, _with_prefix(tensors, OPTIMISER))
    torch.set_rng_state(tensors[GENERATOR])
    return RunState(**json.loads(metadata["place"]))


def delete_state(run_dir: Path) -> None:
    """Delete the state of a finished run."""
    (run_dir / RESUME_NAME).unlink(missing_ok=True)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _restore_optimiser(optimiser: Optimizer, moments: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in moments.items():
        number, _, moment = name.partition("/")
        state.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
