"""The tuned grid: a cell is a whole training run (train.py) in a folder of its own, and its outputs on every pool.

A finished run is kept, so that a cell that is to hold other outputs is asked again, not trained again.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch.nn.functional import normalize

from dermnote_train.config import TrainConfig
from dermnote_train.data.records import Record
from dermnote_train.files import atomic_write
from dermnote_train.models import images
from dermnote_train.models.checkpoint import CHECKPOINT_NAME, load_checkpoint
from dermnote_train.models.inference import classify, read
from dermnote_train.models.model import LesionModel
from dermnote_train.models.run_folder import keep_run_data
from dermnote_train.progress import Report, Step
from dermnote_train.study.arms import ARMS, training_texts
from dermnote_train.study.cells.cell import Cell, cell_path
from dermnote_train.study.cells.frozen import versions
from dermnote_train.study.cells.heads import Input
from dermnote_train.study.cells.outputs import FORMAT, CellFacts, CellOutputs, Choice, Floats32, PoolOutputs
from dermnote_train.study.plan import TunedGrid
from dermnote_train.study.prompts import class_prompts, prompt_logits
from dermnote_train.training.train import train

TRAINED_NAME = "trained.json"


class TrainedRun(BaseModel):
    """What a finished run says of itself. `digest`: of all that its weights depend on; `epoch`, `loss`: what was kept,
    and its cross-entropy on validation data; `seconds` of training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    epoch: int
    loss: float
    seconds: float


class Paused(Exception):
    """Enough time has gone by; the run's state is kept."""


@dataclass(frozen=True)
class TunedCell(Cell):
    """One cell to be made."""

    grid: TunedGrid

    @property
    def path(self) -> str:
        """Where its file lies, below the study's folder of cells."""
        return cell_path("tuned", self.route, self.arm, self.seed)

    @property
    def config(self) -> TrainConfig:
        """The grid's, with the cell's seed."""
        return self.grid.config.model_copy(update={"seed": self.seed})

    @property
    def notes(self) -> dict[str, str] | None:
        """image_id -> the text that a training picture learns with."""
        arm = ARMS[self.arm]
        if not arm.has_text:
            return None
        (texts,) = training_texts(arm, self.split.train, self.sets, seed=self.seed)
        return {record.image_id: text for record, text in zip(self.split.train, texts, strict=True)}

    def training_digest(self) -> str:
        """sha256 of all that its weights depend on."""
        made_by = (self.config.model_dump_json(), ARMS[self.arm].learns, self.classes, versions())
        digest = hashlib.sha256(repr(made_by).encode())
        for part, records in {"train": self.split.train, "val": self.split.val}.items():
            for line in self.seen(part, records):
                digest.update(f"{line}\n".encode())
        digest.update(repr(sorted((self.notes or {}).items())).encode())
        return digest.hexdigest()

    def digest(self) -> str:
        """sha256 of all that its outputs depend on."""
        arm = ARMS[self.arm]
        asked = (FORMAT, self.arm, arm.read, class_prompts(self.classes))
        digest = hashlib.sha256(repr((self.training_digest(), asked)).encode())
        for part, records in self.pools.items():
            for line in self.seen(part, records, read=arm.needs):
                digest.update(f"{line}\n".encode())
        return digest.hexdigest()


def make_tuned_cell(cell: TunedCell, *, run_dir: Path, progress: Report, enough: Callable[[], bool]) -> CellOutputs:
    """Train the cell's model in `run_dir` and ask it about every pool. Raises Paused once `enough()`; the next call
    goes on where it stopped.
    """

    def told(step: Step) -> None:
        progress(replace(step, stage=f"{cell.arm}, seed {cell.seed}: {step.stage}"))
        if enough():
            raise Paused

    trained = _finished(run_dir, cell)
    if trained is None:
        (run_dir / TRAINED_NAME).unlink(missing_ok=True)  # its weights are about to go
        begun = time.monotonic()
        result = train(
            cell.config, split=cell.split, classes=cell.classes, notes=cell.notes, run_dir=run_dir, progress=told
        )
        keep_run_data(run_dir, cell.dataset, split=cell.split, class_set="paper5", strategy=_strategy(cell))
        trained = TrainedRun(
            digest=cell.training_digest(),
            epoch=result.best_epoch,
            loss=min(row.val_ce for row in result.history),
            seconds=time.monotonic() - begun,
        )
        with atomic_write(run_dir / TRAINED_NAME) as partial:
            partial.write_text(trained.model_dump_json(), "utf-8")
    model = load_checkpoint(run_dir, split=cell.split)
    pools = {name: _outputs(model, records, cell=cell) for name, records in cell.pools.items()}
    facts = CellFacts(
        grid="tuned",
        route=cell.route,
        arm=cell.arm,
        seed=cell.seed,
        digest=cell.digest(),
        classes=cell.classes,
        pools={name: pool.image_ids for name, pool in pools.items()},
        choices={"image": Choice(candidate=0, epoch=trained.epoch, losses=(trained.loss,))},
        trained_on=len(cell.split.train),
        seconds=trained.seconds,
        versions=versions(),
    )
    return CellOutputs(facts, pools)


def _strategy(cell: TunedCell) -> str | None:
    return cell.arm if ARMS[cell.arm].has_text else None


def _finished(run_dir: Path, cell: TunedCell) -> TrainedRun | None:
    """What a finished run of the very same training left; None if there is none."""
    try:
        found = TrainedRun.model_validate_json((run_dir / TRAINED_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    there = (run_dir / CHECKPOINT_NAME).exists()
    return found if there and found.digest == cell.training_digest() else None


def _outputs(model: LesionModel, records: Sequence[Record], *, cell: TunedCell) -> PoolOutputs:
    arm = ARMS[cell.arm]
    seen = classify(model, images.decode(records, preprocessing=model.towers.preprocessing))
    logits: dict[Input, Floats32] = {"image": seen.logits.numpy()}
    note, own = None, None
    if arm.reads:
        told = read(model, [cell.sets[arm.read][record.image_id] for record in records])
        logits |= {"note": told.logits.numpy(), "both": ((seen.logits + told.logits) / 2).numpy()}
        note = normalize(told.embedding, dim=1).numpy()
        said = read(model, [cell.sets[arm.notes[0]][record.image_id] for record in records])
        own = normalize(said.embedding, dim=1).numpy()
    if arm.prompted:
        prompts = [read(model, texts).embedding for texts in class_prompts(model.classes)]
        logits["prompts"] = prompt_logits(seen.embedding, torch.stack(prompts)).numpy()
    return PoolOutputs(
        image_ids=tuple(record.image_id for record in records),
        logits=logits,
        image=normalize(seen.embedding, dim=1).numpy(),
        note=note,
        own_text=own,
    )
