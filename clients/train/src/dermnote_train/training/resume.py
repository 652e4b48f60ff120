"""The whole state of an unfinished training run in one file, so that a killed run goes on as if nothing had been.

Weights, the optimiser's moments, torch's generator, the place in the epoch and what was measured so far. No pickle.
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
from dermnote_train.data.records import Split
from dermnote_train.files import atomic_write
from dermnote_train.models import checkpoint
from dermnote_train.models.model import LesionModel

log = logging.getLogger(__name__)
RESUME_NAME = "resume.safetensors"
MODEL, OPTIMISER, GENERATOR = "model/", "optimiser/", "generator"


@dataclass
class Place:
    """Where a run stands: in `epoch` (from 1), `terms` of its batches so far; `history`: the finished epochs' rows."""

    epoch: int = 1
    terms: list[dict[str, float]] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


def run_key(
    config: TrainConfig, *, split: Split, classes: Sequence[str], notes: Mapping[str, str] | None, processes: int
) -> str:
    """sha256 of all that a run depends on: a state of another run is not gone on with."""
    told = None if notes is None else [notes[record.image_id] for record in split.train]
    labels = [record.label for record in (*split.train, *split.val)]
    known = [checkpoint.split_id(split), list(classes), labels, told]
    facts = [config.model_dump_json(), known, processes, torch.__version__]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def save_state(run_dir: Path, *, key: str, place: Place, model: LesionModel, optimiser: Optimizer) -> None:
    """Keep the state, whole or not at all."""
    tensors = {f"{MODEL}{name}": tensor for name, tensor in checkpoint.learned_state(model).items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{OPTIMISER}{number}/{name}": tensor.cpu().contiguous() for name, tensor in moments.items()}
    tensors[GENERATOR] = torch.get_rng_state()
    with atomic_write(run_dir / RESUME_NAME) as partial:
        save_file(tensors, partial, metadata={"key": key, "place": json.dumps(asdict(place))})


def load_state(run_dir: Path, *, key: str, model: LesionModel, optimiser: Optimizer) -> Place:
    """Put a kept state into model, optimiser and generator; a fresh place where there is none of this very run."""
    path = run_dir / RESUME_NAME
    if not path.exists():
        return Place()
    try:
        with safe_open(path, framework="pt") as stored:
            facts = stored.metadata() or {}
            if facts.get("key") != key:
                log.warning("%s is of a run with other settings, data or notes: this one begins anew", path)
                return Place()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError):
        log.warning("%s is damaged: the run begins anew", path)
        return Place()
    checkpoint.restore(model, _below(tensors, MODEL))
    _fill(optimiser, _below(tensors, OPTIMISER))
    torch.set_rng_state(tensors[GENERATOR])
    return Place(**json.loads(facts["place"]))


def forget_state(run_dir: Path) -> None:
    """A finished run has nothing to go on with."""
    (run_dir / RESUME_NAME).unlink(missing_ok=True)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _fill(optimiser: Optimizer, moments: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in moments.items():
        number, _, moment = name.partition("/")
        state.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
