"""The training loop: images and, where there are notes, their text, into one run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermnote_train.config import TrainConfig
from dermnote_train.model import LesionModel
from dermnote_train.progress import Report, silent
from dermnote_train.records import Split


@dataclass(frozen=True)
class EpochRow:
    """One line of history.csv. Losses are means over the epoch's batches; `val_*` are the image branch on `split.val`."""

    epoch: int
    loss: float
    image_ce: float
    text_ce: float
    cosine: float
    l1: float
    nt_xent: float
    info_nce: float
    val_ce: float
    val_balanced_accuracy: float
    images_per_s: float


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the model holds the best epoch's weights, as does `run_dir`/model.safetensors.

    `run_dir` also holds config.json and history.csv. `best_epoch` counts from 1; `images_per_s` is the median over epochs.
    """

    run_dir: Path
    history: tuple[EpochRow, ...]
    best_epoch: int
    images_per_s: float
    model: LesionModel


def train(
    config: TrainConfig,
    *,
    split: Split,
    classes: Sequence[str],
    notes: Mapping[str, str] | None,
    run_dir: Path,
    progress: Report = silent,
) -> TrainResult:
    """Train on split.train, stop early by split.val (the image branch's cross-entropy), never look at split.test.

    notes: image_id -> note for every record of split.train; None trains the image branch alone (image CE only).
    run_dir: made if absent; text features are cached in it. progress: told of every batch (progress.Step).
    Raises UserError for parts too small to train on, a class without training images, a record without its note, an image
    that can't be read.
    """
    raise NotImplementedError
