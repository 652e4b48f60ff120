"""The training loop: images and, where there are notes, their text, into one run folder."""

import csv
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer
from torch.utils.data import WeightedRandomSampler
from torchvision.transforms import v2

from dermnote_train import checkpoint, images
from dermnote_train.atomic import replacing
from dermnote_train.augment import augmentation, augmented
from dermnote_train.config import TrainConfig
from dermnote_train.errors import UserError
from dermnote_train.features import text_features
from dermnote_train.losses import LossTerms, image_loss, image_text_loss
from dermnote_train.metrics import balanced_accuracy
from dermnote_train.model import LesionModel
from dermnote_train.predict import classify
from dermnote_train.progress import Report, Step, silent
from dermnote_train.records import Record, Split
from dermnote_train.trainable import refuse_untrainable

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
    progress: Report = silent,
) -> TrainResult:
    """Train on split.train, stop early by split.val (the image branch's cross-entropy), never look at split.test.

    notes: image_id -> note for every record of split.train; None trains the image branch alone (image CE only).
    run_dir: made if absent; text features are cached in it. progress: told of every batch.
    Raises UserError for parts too small to train on, a class without training images, a record without its note, an
    image that can't be read, a loss that is no number any more.
    """
    refuse_untrainable(split, classes=classes, notes=notes)
    torch.manual_seed(config.seed)
    device = _device(config)

    model = checkpoint.build_model(config, classes=tuple(classes), with_notes=notes is not None).to(device)
    seen = _load(split.train, model=model, notes=notes, run_dir=run_dir, progress=progress)
    held_out = _load(split.val, model=model, notes=None, run_dir=run_dir, progress=progress)
    tuned = _thaw(model, config=config)
    optimiser = _optimiser(model, config=config)
    sampler = balanced_sampler(seen.labels, classes=len(classes), seed=config.seed)
    transform = augmentation(image_size=config.image_size)

    history: list[EpochRow] = []
    best: EpochRow | None = None
    for epoch in range(1, config.epochs + 1):
        _learning(model, tuned=tuned, frozen_norm=config.frozen_norm)
        started, terms = time.perf_counter(), []
        for batch in _batches(sampler, size=config.batch_size):
            terms.append(_step(model, seen, batch, optimiser=optimiser, transform=transform, config=config))
            done = min(len(terms) * config.batch_size, len(seen.labels))
            stage = f"epoch {epoch}/{config.epochs}"
            progress(Step(stage, done, len(seen.labels), f"loss {terms[-1]['total']:.2f}"))
        rate = len(seen.labels) / (time.perf_counter() - started)

        row = _epoch_row(epoch, terms, rate=rate, model=model, held_out=held_out)
        _refuse_divergence(row)
        history.append(row)
        _write_history(history, run_dir=run_dir)
        if best is None or row.val_ce < best.val_ce:
            best = row
            checkpoint.save_checkpoint(model, config=config, split=split, epoch=epoch, run_dir=run_dir)
        elif epoch - best.epoch >= config.patience:
            break

    assert best is not None  # noqa: S101 (config.epochs is at least 1)
    checkpoint.restore(model, checkpoint.read_state(run_dir / checkpoint.CHECKPOINT_NAME))
    result = TrainResult(
        run_dir=run_dir,
        history=tuple(history),
        best_epoch=best.epoch,
        images_per_s=median(row.images_per_s for row in history),
        model=model.eval(),
    )
    _write_run(result, config=config, split=split)
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
    progress: Report,
) -> _Part:
    pixels = images.decode(records, preprocessing=model.towers.preprocessing, progress=progress)
    labels = torch.tensor([model.classes.index(record.label) for record in records], device=model.device)
    if notes is None:
        return _Part(pixels=pixels, text=None, labels=labels)
    texts = [notes[record.image_id] for record in records]
    text = text_features(texts, towers=model.towers, cache_dir=run_dir, progress=progress)
    return _Part(pixels=pixels, text=text.to(model.device), labels=labels)


def _device(config: TrainConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _thaw(model: LesionModel, *, config: TrainConfig) -> list[nn.Module]:
    """Let the head and the tuned part of the image tower learn, nothing else; returns the modules that learn."""
    model.towers.requires_grad_(requires_grad=False)
    trunk = model.towers.visual.get_submodule("trunk")
    parts = {"all": [trunk], "last": [trunk.get_submodule(name) for name in LAST_STAGES], "none": []}[config.tuned]
    for part in parts:
        part.requires_grad_(requires_grad=True)
    return [model.head, *parts]


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
    groups = [{"params": list(model.head.parameters()), "lr": config.head_lr}]
    if tower:
        groups.append({"params": tower, "lr": config.lr})
    return Adam(groups, weight_decay=config.weight_decay, amsgrad=True)


def balanced_sampler(labels: Tensor, *, classes: int, seed: int) -> WeightedRandomSampler:
    """As many draws an epoch as there are images, with replacement, every class equally likely."""
    counts = torch.bincount(labels.cpu(), minlength=classes)
    weights = (1 / counts.double())[labels.cpu()]
    generator = torch.Generator().manual_seed(seed)
    return WeightedRandomSampler(weights.tolist(), num_samples=len(labels), generator=generator)


def _batches(sampler: WeightedRandomSampler, *, size: int) -> Iterator[Tensor]:
    yield from torch.split(torch.tensor(list(sampler)), size)


def _step(
    model: LesionModel,
    seen: _Part,
    batch: Tensor,
    *,
    optimiser: Optimizer,
    transform: v2.Transform,
    config: TrainConfig,
) -> dict[str, float]:
    """One step of the optimiser on the images numbered `batch`; returns every loss term."""
    pixels = augmented(seen.pixels[batch], transform).to(model.device)
    labels = seen.labels[batch.to(model.device)]
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.device.type == "cuda"):
        image = model.of_pixels(pixels)
        text = None if seen.text is None else model.of_text_features(seen.text[batch.to(model.device)])
    terms = image_loss(image, labels) if text is None else image_text_loss(image, text, labels, weights=config.losses)
    optimiser.zero_grad()
    terms.total.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return {field.name: getattr(terms, field.name).item() for field in fields(LossTerms)}


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


def _write_history(history: Sequence[EpochRow], *, run_dir: Path) -> None:
    with replacing(run_dir / "history.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
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
    with replacing(result.run_dir / "run.json") as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
