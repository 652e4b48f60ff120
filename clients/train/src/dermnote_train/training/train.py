"""The training loop: images and, where there are notes, their text, into one run folder."""

import csv
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, Optimizer
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms import v2

from dermnote_train.config import TrainConfig
from dermnote_train.data.records import Record, Split
from dermnote_train.errors import UserError
from dermnote_train.evaluation.metrics import balanced_accuracy
from dermnote_train.files import atomic_write
from dermnote_train.models import checkpoint, images
from dermnote_train.models.features import text_features
from dermnote_train.models.inference import classify
from dermnote_train.models.model import LesionModel
from dermnote_train.models.towers import LITE
from dermnote_train.progress import Report, Step, silent
from dermnote_train.training.augment import augmentation, augmented
from dermnote_train.training.distributed import Workers
from dermnote_train.training.losses import LossTerms, image_loss, image_text_loss
from dermnote_train.training.preflight import refuse_untrainable
from dermnote_train.training.resume import Place, forget_state, load_state, run_key, save_state
from dermnote_train.training.sampling import augmentation_seeds, balanced_order

ALONE = Workers()
LAST_STAGES = ("blocks.5", "blocks.6", "conv_head", "bn2")  # of timm's EfficientNet: what `tuned: last` lets learn


@dataclass(frozen=True)
class EpochRow:
    """One line of history.csv. Losses are means over the epoch's batches; `val_*`: the image branch on split.val."""

    epoch: int
    loss: float
    image_ce: float
    text_ce: float
    cosine: float
    l1: float
    nt_xent: float
    info_nce: float
    fused_ce: float
    val_ce: float
    val_balanced_accuracy: float
    images_per_s: float


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the model holds the best epoch's weights, as does `run_dir`/model.safetensors.

    `run_dir` also holds run.json and history.csv. `best_epoch` counts from 1; `images_per_s` is the epochs' median.
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
    workers: Workers = ALONE,
    tensorboard: bool = False,
    progress: Report = silent,
) -> TrainResult:
    """Train on split.train, stop early by split.val (the image branch's cross-entropy), never look at split.test.

    notes: image_id -> note for every record of split.train; None trains the image branch alone (image CE only).
    run_dir: made if absent; text features are cached in it, and the state of an unfinished run, which the same call
    goes on with: killed at any moment, it ends with the same weights on the same machine. workers: the processes that
    train together (spread.py), all with the same arguments. tensorboard: events go to run_dir/tensorboard. progress:
    told of every batch.
    Raises UserError for parts too small to train on, a class without training images, a record without its note, an
    image that can't be read, a loss that is no number any more.
    """
    refuse_untrainable(split, classes=classes, notes=notes)
    torch.manual_seed(config.seed)
    device = workers.device(_device(config))

    model = checkpoint.build_model(config, classes=tuple(classes), with_notes=notes is not None).to(device)
    seen = _load(split.train, model=model, notes=notes, run_dir=run_dir, workers=workers, progress=progress)
    held_out = _load(split.val, model=model, notes=None, run_dir=run_dir, workers=workers, progress=progress)
    model.towers.visual.to(memory_format=torch.channels_last)  # half again as fast on CPUs
    tuned = _thaw(model, config=config)
    optimiser = _optimiser(model, config=config)
    key = run_key(config, split=split, classes=classes, notes=notes, processes=workers.count)
    place = load_state(run_dir, key=key, model=model, optimiser=optimiser)
    learner = _Learner(_spread(model, workers), optimiser, augmentation(image_size=config.image_size), config, workers)
    board = _board(run_dir, wanted=tensorboard and workers.first)

    history = [EpochRow(**row) for row in place.history]  # type: ignore[arg-type]
    best = min(history, key=lambda row: row.val_ce, default=None)
    for epoch in range(place.epoch, config.epochs + 1):
        if best is not None and epoch - 1 - best.epoch >= config.patience:
            break
        _learning(model, tuned=tuned, frozen_norm=config.frozen_norm)
        order = balanced_order(seen.labels, classes=len(classes), seed=config.seed, epoch=epoch)
        batches = torch.split(torch.arange(len(order)), config.batch_size)
        terms, before, started = place.terms, len(place.terms), time.perf_counter()
        for number in range(before, len(batches)):
            last = number + 1 == len(batches)
            steps = last or (number + 1) % config.accumulate == 0
            terms.append(_learn(learner, seen, _Batch(order, places=batches[number], epoch=epoch, steps=steps)))
            if steps and not last and (number + 1) % config.save_every < config.accumulate and workers.first:
                save_state(run_dir, key=key, place=place, model=model, optimiser=optimiser)
            shown = f"loss {terms[-1]['total']:.2f}"
            progress(Step(f"epoch {epoch}/{config.epochs}", int(batches[number][-1]) + 1, len(order), shown))
        rate = (len(order) - before * config.batch_size) / (time.perf_counter() - started)

        row = _epoch_row(epoch, terms, rate=rate, model=model, held_out=held_out)
        _refuse_divergence(row)
        row = replace(row, val_ce=workers.agreed(row.val_ce))
        history.append(row)
        if best is None or row.val_ce < best.val_ce:
            best = row
            if workers.first:
                checkpoint.save_checkpoint(model, config=config, split=split, epoch=epoch, run_dir=run_dir)
        place = Place(epoch + 1, history=[asdict(one) for one in history])
        if workers.first:
            _write_history(history, run_dir=run_dir)
            save_state(run_dir, key=key, place=place, model=model, optimiser=optimiser)
            _tell(board, row)

    assert best is not None  # noqa: S101 (config.epochs is at least 1)
    workers.wait()
    checkpoint.restore(model, checkpoint.read_state(run_dir / checkpoint.CHECKPOINT_NAME))
    result = TrainResult(
        run_dir=run_dir,
        history=tuple(history),
        best_epoch=best.epoch,
        images_per_s=median(row.images_per_s for row in history),
        model=model.eval(),
    )
    if workers.first:
        _write_run(result, config=config, split=split)
        forget_state(run_dir)
    return result


@dataclass(frozen=True)
class _Part:
    """One part of a split in memory. pixels: uint8 [n, 3, s, s]; text: [n, text_features] or None; labels: [n]."""

    pixels: Tensor
    text: Tensor | None
    labels: Tensor


def _load(
    records: Sequence[Record],
    *,
    model: LesionModel,
    notes: Mapping[str, str] | None,
    run_dir: Path,
    workers: Workers,
    progress: Report,
) -> _Part:
    pixels = images.decode(records, preprocessing=model.towers.preprocessing, progress=progress)
    labels = torch.tensor([model.classes.index(record.label) for record in records], device=model.device)
    if notes is None:
        return _Part(pixels=pixels, text=None, labels=labels)
    texts = [notes[record.image_id] for record in records]
    if not workers.first:
        workers.wait()  # until the first has written them
    text = text_features(texts, towers=model.towers, cache_dir=run_dir, progress=progress)
    if workers.first:
        workers.wait()
    return _Part(pixels=pixels, text=text.to(model.device), labels=labels)


def _device(config: TrainConfig) -> str:
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def _thaw(model: LesionModel, *, config: TrainConfig) -> list[nn.Module]:
    """Let the head and the tuned part of the image tower learn, nothing else; returns the modules that learn."""
    model.towers.requires_grad_(requires_grad=False)
    model.head.text.requires_grad_(requires_grad=model.with_notes)
    parts = _tuned_parts(model, config=config)
    for part in parts:
        part.requires_grad_(requires_grad=True)
    return [model.head, *parts]


def _tuned_parts(model: LesionModel, *, config: TrainConfig) -> list[nn.Module]:
    if config.tuned == "none":
        return []
    if config.tuned == "all":
        return [model.towers.visual]
    if config.preset != LITE:
        raise UserError(f"tuned: last is known of preset lite only, not of {config.preset}; use all or none")
    trunk = model.towers.visual.get_submodule("trunk")
    return [trunk.get_submodule(name) for name in LAST_STAGES]


def _learning(model: LesionModel, *, tuned: Sequence[nn.Module], frozen_norm: bool) -> None:
    """Training mode for what learns; the rest (the frozen text tower with its dropout) stays in evaluation mode."""
    model.eval()
    for part in tuned:
        part.train()
        for module in part.modules():
            if frozen_norm and isinstance(module, nn.BatchNorm2d):
                module.eval()


def _optimiser(model: LesionModel, *, config: TrainConfig) -> Optimizer:
    tower = [weight for weight in model.towers.parameters() if weight.requires_grad]
    head = [weight for weight in model.head.parameters() if weight.requires_grad]
    groups = [{"params": head, "lr": config.head_lr}]
    if tower:
        groups.append({"params": tower, "lr": config.lr})
    return Adam(groups, weight_decay=config.weight_decay, amsgrad=True)


@dataclass(frozen=True)
class _Batch:
    """The places of one batch in an epoch's order. `steps`: the optimiser steps after it."""

    order: Tensor
    places: Tensor
    epoch: int
    steps: bool


@dataclass(frozen=True)
class _Learner:
    """What every batch needs. `model`: on its own, or in the hands of many processes."""

    model: nn.Module
    optimiser: Optimizer
    transform: v2.Transform
    config: TrainConfig
    workers: Workers


def _spread(model: LesionModel, workers: Workers) -> nn.Module:
    return model if workers.count == 1 else DistributedDataParallel(model)


def _learn(learner: _Learner, seen: _Part, batch: _Batch) -> dict[str, float]:
    """Take the gradients of one batch, and step where it is time to; returns every loss term of the whole batch."""
    config, workers, device = learner.config, learner.workers, seen.labels.device
    places = workers.part(batch.places)
    rows = batch.order[places]
    seeds = augmentation_seeds(places, seed=config.seed, epoch=batch.epoch)
    pixels = augmented(seen.pixels[rows], learner.transform, seeds=seeds).to(device)
    told = None if seen.text is None else seen.text[rows.to(device)]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_half(config, device)):
        image, text = learner.model(pixels, told)
    labels = seen.labels[batch.order[batch.places].to(device)]
    image = workers.whole(image, size=len(labels))
    terms = (
        image_loss(image, labels)
        if text is None
        else image_text_loss(image, workers.whole(text, size=len(labels)), labels, weights=config.losses)
    )
    (terms.total / config.accumulate).backward()  # type: ignore[no-untyped-call]
    if batch.steps:
        learner.optimiser.step()
        learner.optimiser.zero_grad()
    return {field.name: getattr(terms, field.name).item() for field in fields(LossTerms)}


def _half(config: TrainConfig, device: torch.device) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def _epoch_row(
    epoch: int, terms: Sequence[Mapping[str, float]], *, rate: float, model: LesionModel, held_out: _Part
) -> EpochRow:
    means = {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}
    logits, labels = classify(model, held_out.pixels).logits, held_out.labels.cpu()
    return EpochRow(
        epoch=epoch,
        loss=means.pop("total"),
        val_ce=functional.cross_entropy(logits, labels).item(),
        val_balanced_accuracy=balanced_accuracy(labels.numpy(), logits.argmax(dim=1).numpy()),
        images_per_s=rate,
        **means,
    )


def _refuse_divergence(row: EpochRow) -> None:
    if not (math.isfinite(row.loss) and math.isfinite(row.val_ce)):
        raise UserError(f"training went astray in epoch {row.epoch} (the loss is no number); lower lr and head_lr")


def _board(run_dir: Path, *, wanted: bool) -> SummaryWriter | None:
    return SummaryWriter(run_dir / "tensorboard") if wanted else None


def _tell(board: SummaryWriter | None, row: EpochRow) -> None:
    if board is not None:
        for name, value in asdict(row).items():
            board.add_scalar(name, value, row.epoch)
        board.flush()


def _write_history(history: Sequence[EpochRow], *, run_dir: Path) -> None:
    with atomic_write(run_dir / "history.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(EpochRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)


def _write_run(result: TrainResult, *, config: TrainConfig, split: Split) -> None:
    facts = {
        "config": config.model_dump(mode="json"),
        "classes": result.model.classes,
        "with_notes": result.model.with_notes,
        "images": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "split_seed": split.seed,
        "best_epoch": result.best_epoch,
        "images_per_s": round(result.images_per_s, 1),
    }
    with atomic_write(result.run_dir / "run.json") as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
