"""Cells of the tuned grid: each is a full training run (train.py) in its own folder, evaluated on every pool.

Finished runs are kept, so that a cell is evaluated again without training if only its test inputs changed.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.functional import normalize

from dermnote_train.config import StrictModel, TrainConfig
from dermnote_train.data.records import Record
from dermnote_train.files import write_text
from dermnote_train.models import images
from dermnote_train.models.checkpoint import CHECKPOINT_NAME, load_checkpoint
from dermnote_train.models.inference import predict_images, predict_texts
from dermnote_train.models.model import LesionModel
from dermnote_train.models.run_folder import write_run_data
from dermnote_train.progress import Report, Step
from dermnote_train.study.arms import ARMS, training_texts
from dermnote_train.study.cells.cell import Cell
from dermnote_train.study.cells.heads import Input
from dermnote_train.study.cells.outputs import FORMAT, CellOutputs, Choice, Floats32, PoolOutputs, versions
from dermnote_train.study.plan import TunedGrid
from dermnote_train.study.prompts import class_prompts, prompt_logits
from dermnote_train.training.train import train

log = logging.getLogger(__name__)
TUNED = "tuned"
RUN_RECORD_NAME = "trained.json"


class RunRecord(StrictModel):
    """The record of a finished run. `digest`: of everything that its weights depend on; `epoch`, `loss`: the best
    epoch and its cross-entropy on validation data; `seconds` of training."""

    digest: str
    epoch: int
    loss: float
    seconds: float


class TrainingInterrupted(Exception):
    """Training was stopped by `should_stop`. The next call resumes from the last saved state of the run."""


@dataclass(frozen=True)
class TunedCell(Cell):
    """One cell of the tuned grid."""

    grid: TunedGrid

    @property
    def grid_name(self) -> str:
        """The grid, as stored in the cell's file and used in its path."""
        return TUNED

    @property
    def config(self) -> TrainConfig:
        """The grid's configuration with the cell's seed."""
        return self.grid.config.model_copy(update={"seed": self.seed})

    @property
    def notes(self) -> dict[str, str] | None:
        """image_id -> training text; None for images alone."""
        arm = ARMS[self.arm]
        if not arm.has_text:
            return None
        (texts,) = training_texts(arm, self.split.train, self.sets, seed=self.seed)
        return {record.image_id: text for record, text in zip(self.split.train, texts, strict=True)}

    def training_digest(self) -> str:
        """sha256 of everything that the weights depend on."""
        inputs = (self.config.model_dump_json(), ARMS[self.arm].training_key, self.classes, versions())
        digest = hashlib.sha256(repr(inputs).encode())
        for part, records in {"train": self.split.train, "val": self.split.val}.items():
            for line in self.digest_lines(part, records):
                digest.update(f"{line}\n".encode())
        digest.update(repr(sorted((self.notes or {}).items())).encode())
        return digest.hexdigest()

    def digest(self) -> str:
        """sha256 of everything that the outputs depend on."""
        arm = ARMS[self.arm]
        test_inputs = (FORMAT, self.arm, arm.test_notes, class_prompts(self.classes))
        digest = hashlib.sha256(repr((self.training_digest(), test_inputs)).encode())
        for part, records in self.pools.items():
            for line in self.digest_lines(part, records, sets=arm.required_sets):
                digest.update(f"{line}\n".encode())
        return digest.hexdigest()


def compute_tuned_cell(
    cell: TunedCell, *, run_dir: Path, progress: Report, should_stop: Callable[[], bool]
) -> CellOutputs:
    """Train the cell's model in `run_dir`, or reuse a finished run, and evaluate it on every pool.

    Raises TrainingInterrupted once `should_stop()` is true; the next call resumes.
    """
    run = _read_finished_run(run_dir, cell) or _train(cell, run_dir, progress=progress, should_stop=should_stop)
    model = load_checkpoint(run_dir, split=cell.split)
    pools = {name: _outputs(model, records, cell=cell) for name, records in cell.pools.items()}
    choice = Choice(candidate=0, epoch=run.epoch, losses=(run.loss,))
    facts = cell.facts(digest=cell.digest(), pools=pools, choices={"image": choice}, seconds=run.seconds)
    return CellOutputs(facts, pools)


def _train(cell: TunedCell, run_dir: Path, *, progress: Report, should_stop: Callable[[], bool]) -> RunRecord:
    def report(step: Step) -> None:
        progress(replace(step, stage=f"{cell.arm}, seed {cell.seed}: {step.stage}"))
        if should_stop():
            raise TrainingInterrupted

    (run_dir / RUN_RECORD_NAME).unlink(missing_ok=True)  # the weights will be overwritten
    started = time.monotonic()
    result = train(
        cell.config, split=cell.split, classes=cell.classes, notes=cell.notes, run_dir=run_dir, progress=report
    )
    strategy = cell.arm if ARMS[cell.arm].has_text else None
    write_run_data(run_dir, cell.dataset, split=cell.split, class_set="paper5", strategy=strategy)
    record = RunRecord(
        digest=cell.training_digest(),
        epoch=result.best_epoch,
        loss=min(row.val_ce for row in result.history),
        seconds=time.monotonic() - started,
    )
    write_text(run_dir / RUN_RECORD_NAME, record.model_dump_json())
    return record


def _read_finished_run(run_dir: Path, cell: TunedCell) -> RunRecord | None:
    """The record of a finished run with the same training inputs; None if there is none."""
    path = run_dir / RUN_RECORD_NAME
    try:
        record = RunRecord.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s); training this model again", path, str(error).partition("\n")[0])
        return None
    has_weights = (run_dir / CHECKPOINT_NAME).exists()
    return record if has_weights and record.digest == cell.training_digest() else None


def _outputs(model: LesionModel, records: Sequence[Record], *, cell: TunedCell) -> PoolOutputs:
    arm = ARMS[cell.arm]
    image = predict_images(model, images.decode(records, preprocessing=model.towers.preprocessing))
    logits: dict[Input, Floats32] = {"image": image.logits.numpy()}
    note, own = None, None
    if arm.uses_test_notes:
        blinded = predict_texts(model, [cell.sets[arm.test_notes][record.image_id] for record in records])
        logits |= {"note": blinded.logits.numpy(), "both": ((image.logits + blinded.logits) / 2).numpy()}
        note = normalize(blinded.embedding, dim=1).numpy()
        training = predict_texts(model, [cell.sets[arm.notes[0]][record.image_id] for record in records])
        own = normalize(training.embedding, dim=1).numpy()
    if arm.uses_prompts:
        prompts = [predict_texts(model, texts).embedding for texts in class_prompts(model.classes)]
        logits["prompts"] = prompt_logits(image.embedding, torch.stack(prompts)).numpy()
    return PoolOutputs(
        image_ids=tuple(record.image_id for record in records),
        logits=logits,
        image=normalize(image.embedding, dim=1).numpy(),
        note=note,
        own_text=own,
    )
