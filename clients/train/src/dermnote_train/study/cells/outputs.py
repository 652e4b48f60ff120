"""What a cell leaves behind: one file of outputs on every held-out pool. All figures are made from these files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dermnote_train.errors import UserError
from dermnote_train.files import atomic_write
from dermnote_train.study.cells.heads import INPUTS, Chosen, Input
from dermnote_train.study.plan import POOLS

Floats32 = NDArray[np.float32]
FORMAT = 2
"""Raised when a cell comes to hold other outputs: older ones are then made again."""
VALIDATION, TRAINING, HOME = POOLS
"""Pools of every cell; TRAINING in mode "paper" only, whose retrieval pools hold the training notes."""


class Choice(BaseModel):
    """What home validation data chose for one input: the candidate by its place, its epoch, and every one's loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidate: int
    epoch: int
    losses: tuple[float, ...]


class CellFacts(BaseModel):
    """What a cell is and how it was made. `digest`: of all that it depends on; `versions`: of the libraries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    grid: str
    route: str
    arm: str
    seed: int
    digest: str
    classes: tuple[str, ...]
    pools: Mapping[str, tuple[str, ...]]
    choices: Mapping[Chosen, Choice]
    trained_on: int
    seconds: float
    versions: Mapping[str, str]


@dataclass(frozen=True)
class PoolOutputs:
    """One held-out pool: `image_ids` in order; logits by input [n, classes]; embeddings [n, 128].

    Of the pictures, of the blinded notes and of the arm's own notes (which may name the class), where there are any.
    """

    image_ids: tuple[str, ...]
    logits: Mapping[Input, Floats32]
    image: Floats32
    note: Floats32 | None = None
    own_text: Floats32 | None = None


@dataclass(frozen=True)
class CellOutputs:
    """A finished cell: its facts, and pool name ("val", "home", or a domain's) -> outputs."""

    facts: CellFacts
    pools: Mapping[str, PoolOutputs]


def write_cell(path: Path, cell: CellOutputs) -> None:
    """Write the file, whole or not at all."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, pool in cell.pools.items():
        tensors |= {f"{name}/logits/{by}": np.ascontiguousarray(logits) for by, logits in pool.logits.items()}
        embeddings = {"image": pool.image, "note": pool.note, "own_text": pool.own_text}
        tensors |= {
            f"{name}/{what}": np.ascontiguousarray(rows.astype(np.float16))
            for what, rows in embeddings.items()
            if rows is not None
        }
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata={"cell": cell.facts.model_dump_json()})


def read_facts(path: Path) -> CellFacts | None:
    """What a cell's file says of itself; None if there is none or it can't be read."""
    try:
        with safe_open(path, framework="np") as stored:
            return CellFacts.model_validate_json((stored.metadata() or {}).get("cell", ""))
    except (OSError, SafetensorError, ValidationError, json.JSONDecodeError):
        return None


def read_cell(path: Path) -> CellOutputs:
    """What write_cell wrote. Raises UserError."""
    facts = read_facts(path)
    if facts is None:
        raise UserError(f"{path}: not a whole cell; delete it and run the same command again")
    with safe_open(path, framework="np") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    return CellOutputs(facts, {name: _pool(name, ids, tensors) for name, ids in facts.pools.items()})


def _pool(name: str, image_ids: tuple[str, ...], tensors: Mapping[str, NDArray[Any]]) -> PoolOutputs:
    def of(what: str) -> Floats32 | None:
        found = tensors.get(f"{name}/{what}")
        return None if found is None else found.astype(np.float32)

    image = of("image")
    assert image is not None  # noqa: S101 (every cell looks at pictures)
    logits: dict[Input, Floats32] = {by: found for by in INPUTS if (found := of(f"logits/{by}")) is not None}
    return PoolOutputs(image_ids, logits, image, of("note"), of("own_text"))
