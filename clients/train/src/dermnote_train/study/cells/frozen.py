"""Cells of the frozen grid: their digests, and the training of their heads on cached features, in parallel."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dermnote_contracts.cpu import usable_cores
from dermnote_train.data.pools import process_pool
from dermnote_train.data.records import Record
from dermnote_train.study.arms import ARMS, NOTE_SETS, Arm, note_owners, training_texts
from dermnote_train.study.cells.cell import Cell
from dermnote_train.study.cells.heads import (
    IMAGE_CANDIDATES,
    INPUTS,
    TEXT_CANDIDATES,
    EvaluationData,
    Schedule,
    TrainedHeads,
    TrainingData,
    train_heads,
)
from dermnote_train.study.cells.outputs import (
    FORMAT,
    VALIDATION,
    CellFacts,
    CellOutputs,
    Choice,
    PoolOutputs,
    versions,
    write_cell,
)
from dermnote_train.study.facts import FactTable
from dermnote_train.study.plan import FrozenGrid
from dermnote_train.study.prompts import class_prompts

MIN_DEVIATION = 0.01
FROZEN, ABLATIONS = "frozen", "trials"
"""Grid names, as stored in cells; the grid of an ablation is named trials/NAME."""


@dataclass(frozen=True)
class Features:
    """Cached features. views: image_id -> [1 + v, d], the image and its v augmented views; texts: text -> [t].

    `key` identifies both towers.
    """

    views: Mapping[str, Tensor]
    texts: Mapping[str, Tensor]
    key: str

    def of_images(self, records: Sequence[Record]) -> Tensor:
        """Features of the images and their views, float32 [n, 1 + v, d]."""
        return torch.stack([self.views[record.image_id] for record in records]).float()

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Features of the texts, [n, t]."""
        return torch.stack([self.texts[text] for text in texts])


@dataclass(frozen=True)
class FrozenCell(Cell):
    """One cell of the frozen grid or, with `ablation`, of the ablation with that name."""

    grid: FrozenGrid
    ablation: str | None = None

    @property
    def grid_name(self) -> str:
        """The grid, as stored in the cell's file and used in its path."""
        return FROZEN if self.ablation is None else f"{ABLATIONS}/{self.ablation}"

    def digest(self, features_key: str) -> str:
        """sha256 of everything that the outputs depend on. features_key: `Features.key`."""
        arm = ARMS[self.arm]
        settings = self.grid.model_dump_json(exclude={"arms", "seeds"})
        prompts = class_prompts(self.classes)
        arm_inputs = (self.arm, arm.training_key, arm.test_notes, self.seed, self.classes, prompts)
        shared_inputs = (FORMAT, features_key, settings, IMAGE_CANDIDATES, TEXT_CANDIDATES, versions())
        digest = hashlib.sha256(repr((arm_inputs, shared_inputs)).encode())
        for part, records in {"train": self.split.train, **self.pools}.items():
            for line in self.digest_lines(part, records, sets=arm.required_sets):
                digest.update(f"{line}\n".encode())
            for record in records if arm.table else ():
                digest.update(record.metadata.model_dump_json(exclude_none=True).encode())
        return digest.hexdigest()


def compute_frozen_cell(cell: FrozenCell, *, features: Features) -> CellOutputs:
    """Train the heads of a cell and evaluate them on every pool."""
    started = time.monotonic()
    arm = ARMS[cell.arm]
    inputs = _Inputs(cell, arm, features)
    trained = train_heads(
        inputs.training_data(),
        inputs.selection_data(),
        candidates=TEXT_CANDIDATES if arm.has_text else IMAGE_CANDIDATES,
        schedule=Schedule(cell.grid.epochs, cell.grid.patience, cell.grid.batch_size),
        classes=len(cell.classes),
        seed=cell.seed,
    )
    pools = {
        name: _outputs(trained, inputs.evaluation_data(records), records=records)
        for name, records in cell.pools.items()
    }
    choices = {
        by: Choice(candidate=best.candidate, epoch=best.epoch, losses=trained.losses[by])
        for by, best in trained.best.items()
    }
    seconds = time.monotonic() - started
    return CellOutputs(
        cell.facts(digest=cell.digest(features.key), pools=pools, choices=choices, seconds=seconds), pools
    )


class _Standardizer(NamedTuple):
    """Scales features to mean 0 and deviation 1 on the training part, without amplifying nearly constant ones."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> "_Standardizer":
        return cls(features.mean(dim=0), features.std(dim=0).clamp(min=MIN_DEVIATION))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


class _Inputs:
    """The tensors of a cell, standardised by its training images (without augmentation) and training texts."""

    def __init__(self, cell: FrozenCell, arm: Arm, features: Features) -> None:
        self.cell, self.arm, self.features = cell, arm, features
        records = cell.split.train
        self.table = FactTable(records, findings=NOTE_SETS[arm.test_notes].findings) if arm.table else None
        self.views, self.text = features.of_images(records), self._training_text(records)
        self.scale_image = _Standardizer.fit(self.views[:, 0])
        self.scale_text = None if self.text is None else _Standardizer.fit(self.text.flatten(0, 1))

    def _training_text(self, records: Sequence[Record]) -> Tensor | None:
        """Features [k, n, t] of each training image's k texts; [1, n, t] of the facts for a table; or None."""
        if self.table is not None:
            return torch.from_numpy(self.table.rows(records))[None]
        if not self.arm.has_text:
            return None
        texts = training_texts(self.arm, records, self.cell.sets, seed=self.cell.seed)
        return torch.stack([self.features.of_texts(own) for own in texts])

    def training_data(self) -> TrainingData:
        """The training part."""
        labels = self._labels(self.cell.split.train)
        if self.arm.shuffled_labels:
            labels = _shuffle(labels, seed=self.cell.seed)
        return TrainingData(self.scale_image(self.views), self._standardise_text(self.text), labels)

    def selection_data(self) -> EvaluationData:
        """The validation part that selects candidate and epoch, corrupted like the training data of the arm.

        A control that was selected on true pairs, prompts or labels would have learned from them.
        """
        records = self.cell.pools[VALIDATION]
        owners = note_owners(self.arm, records, seed=self.cell.seed)
        data = self.evaluation_data(records, note_records=[records[row] for row in owners])
        if self.arm.pairing == "any" and data.prompts is not None:
            return replace(data, prompts=data.prompts.roll(1, dims=0))
        if self.arm.shuffled_labels:
            return replace(data, labels=_shuffle(data.labels, seed=self.cell.seed))
        return data

    def evaluation_data(
        self, records: Sequence[Record], *, note_records: Sequence[Record] | None = None
    ) -> EvaluationData:
        """The data for testing `records`. note_records: the records whose notes are used, by default `records`."""
        note_records = records if note_records is None else note_records
        arm, sets, of_texts = self.arm, self.cell.sets, self.features.of_texts
        note, own, prompts = None, None, None
        if self.table is not None:
            note = torch.from_numpy(self.table.rows(note_records))
        elif arm.uses_test_notes:
            note = of_texts([sets[arm.test_notes][record.image_id] for record in note_records])
            own = of_texts([sets[arm.notes[0]][record.image_id] for record in note_records])
        if arm.uses_prompts:
            prompts = torch.stack([of_texts(texts) for texts in class_prompts(self.cell.classes)])
        groups = np.unique([record.group for record in records], return_inverse=True)[1]
        return EvaluationData(
            image=self.scale_image(self.features.of_images(records)[:, 0]),
            note=self._standardise_text(note),
            labels=self._labels(records),
            groups=torch.from_numpy(groups),
            own_text=self._standardise_text(own),
            prompts=self._standardise_text(prompts),
        )

    def _standardise_text(self, text: Tensor | None) -> Tensor | None:
        return None if self.scale_text is None or text is None else self.scale_text(text)

    def _labels(self, records: Sequence[Record]) -> Tensor:
        return torch.tensor([self.cell.classes.index(record.label) for record in records])


def _shuffle(labels: Tensor, *, seed: int) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def _outputs(trained: TrainedHeads, data: EvaluationData, *, records: Sequence[Record]) -> PoolOutputs:
    image, note = trained.outputs(data, by="retrieval" if "retrieval" in trained.best else "image")
    own = None
    if data.own_text is not None:
        with torch.no_grad():
            own = trained.head.text_branch(data.own_text).embedding.numpy()
    return PoolOutputs(
        image_ids=tuple(record.image_id for record in records),
        logits={by: trained.logits(data, by=by).numpy() for by in INPUTS if by in trained.best},
        image=image.embedding.numpy(),
        note=None if note is None else note.embedding.numpy(),
        own_text=own,
    )


_features: list[Features] = []
"""In a worker process: the features, which it receives once at its start instead of with every cell."""


def compute_cells(
    cells: Sequence[FrozenCell],
    *,
    features: Features,
    folder: Path,
    should_stop: Callable[[], bool],
    processes: int | None = None,
) -> Iterator[CellFacts]:
    """Write each cell's file below `folder` and yield its metadata; once `should_stop()` is true, start no more cells.

    Each process uses one thread, since the training steps are small.
    processes: by default one per core.
    """
    processes = min(processes or usable_cores(), max(len(cells), 1))
    pending = iter(cells)
    with process_pool(processes, initializer=_initialise, initargs=(features,)) as pool:
        running: set[Future[CellFacts]] = set()
        while True:
            while len(running) < processes and not should_stop() and (cell := next(pending, None)) is not None:
                running.add(pool.submit(_compute, cell, folder / cell.path))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for one in finished:
                yield one.result()


def _initialise(features: Features) -> None:
    torch.set_num_threads(1)  # small steps: more threads would wait for each other
    _features[:] = [features]


def _compute(cell: FrozenCell, path: Path) -> CellFacts:
    outputs = compute_frozen_cell(cell, features=_features[0])
    write_cell(path, outputs)
    return outputs.facts
