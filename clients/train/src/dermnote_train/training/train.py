"""The training loop: images and optional notes in, one run folder out."""

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
from dermnote_train.data.records import Split
from dermnote_train.errors import UserError
from dermnote_train.evaluation.metrics import balanced_accuracy
from dermnote_train.files import write_csv, write_text
from dermnote_train.models import checkpoint
from dermnote_train.models.inference import predict_images
from dermnote_train.models.model import LesionModel
from dermnote_train.models.towers import LITE
from dermnote_train.progress import Report, Step, silent
from dermnote_train.training.augment import augment, augmentation
from dermnote_train.training.distributed import ProcessGroup
from dermnote_train.training.losses import LossTerms, image_loss, image_text_loss
from dermnote_train.training.resume import RunState, delete_state, load_state, run_key, save_state
from dermnote_train.training.sampling import (
    TensorData,
    augmentation_seeds,
    balanced_sample,
    check_trainable,
    load_tensors,
)

SINGLE_PROCESS = ProcessGroup()
LAST_STAGES = ("blocks.5", "blocks.6", "conv_head", "bn2")  # of timm's EfficientNet: trained with `tuned: last`


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
    """A finished run; the model holds the best epoch's weights, as does `run_dir`/model.safetensors.

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
    group: ProcessGroup = SINGLE_PROCESS,
    tensorboard: bool = False,
    progress: Report = silent,
) -> TrainResult:
    """Train on split.train with early stopping on split.val (image branch cross-entropy); split.test is never used.

    notes: image_id -> note for every record of split.train; None trains the image branch alone (image CE only).
    run_dir: created if missing; it caches text features and the state of an unfinished run. The same call resumes that
    run; on the same machine, the weights are those of an uninterrupted run, whenever it was killed. group: the
    processes that train together, all with the same arguments. tensorboard: write events to run_dir/tensorboard.
    progress: called after every batch.
    Raises UserError for too few validation images, a class with too few training images, a record without a note, an
    unreadable image, or a loss that is NaN or infinite.
    """
    check_trainable(split, classes=classes, notes=notes)
    torch.manual_seed(config.seed)
    device = group.device(_device(config))

    model = checkpoint.build_model(config, classes=tuple(classes), with_notes=notes is not None).to(device)
    data = load_tensors(split.train, model=model, notes=notes, cache_dir=run_dir, group=group, progress=progress)
    val_data = load_tensors(split.val, model=model, notes=None, cache_dir=run_dir, group=group, progress=progress)
    model.towers.visual.to(memory_format=torch.channels_last)  # 1.5 times as fast on CPUs
    trained_parts = _unfreeze(model, config=config)
    optimiser = _optimiser(model, config=config)
    key = run_key(config, split=split, classes=classes, notes=notes, processes=group.world_size)
    state = load_state(run_dir, key=key, model=model, optimiser=optimiser)
    parallel = model if group.world_size == 1 else DistributedDataParallel(model)
    trainer = _BatchTrainer(parallel, optimiser, augmentation(image_size=config.image_size), config, group)
    writer = SummaryWriter(run_dir / "tensorboard") if tensorboard and group.is_main else None

    history = [EpochRow(**row) for row in state.history]  # type: ignore[arg-type]
    best = min(history, key=lambda row: row.val_ce, default=None)
    for epoch in range(state.epoch, config.epochs + 1):
        if best is not None and epoch - 1 - best.epoch >= config.patience:
            break
        _set_train_mode(model, trained_parts=trained_parts, frozen_norm=config.frozen_norm)
        order = balanced_sample(data.labels, classes=len(classes), seed=config.seed, epoch=epoch)
        batches = torch.split(torch.arange(len(order)), config.batch_size)
        terms, resumed_at, started = state.terms, len(state.terms), time.perf_counter()
        for number in range(resumed_at, len(batches)):
            last = number + 1 == len(batches)
            steps = last or (number + 1) % config.accumulate == 0
            terms.append(trainer.train_batch(data, order, positions=batches[number], epoch=epoch, step=steps))
            if steps and not last and (number + 1) % config.save_every < config.accumulate and group.is_main:
                save_state(run_dir, key=key, state=state, model=model, optimiser=optimiser)
            detail = f"loss {terms[-1]['total']:.2f}"
            progress(Step(f"epoch {epoch}/{config.epochs}", int(batches[number][-1]) + 1, len(order), detail))
        rate = (len(order) - resumed_at * config.batch_size) / (time.perf_counter() - started)

        row = _epoch_row(epoch, terms, rate=rate, model=model, val_data=val_data)
        row = replace(row, val_ce=group.broadcast(row.val_ce))
        history.append(row)
        if best is None or row.val_ce < best.val_ce:
            best = row
            if group.is_main:
                checkpoint.save_checkpoint(model, config=config, split=split, epoch=epoch, run_dir=run_dir)
        state = RunState(epoch + 1, history=[asdict(one) for one in history])
        if group.is_main:
            _write_history(history, run_dir=run_dir)
            save_state(run_dir, key=key, state=state, model=model, optimiser=optimiser)
            _log_to_tensorboard(writer, row)

    assert best is not None  # noqa: S101 (config.epochs is at least 1)
    group.barrier()
    checkpoint.restore(model, checkpoint.read_state(run_dir / checkpoint.CHECKPOINT_NAME))
    result = TrainResult(
        run_dir=run_dir,
        history=tuple(history),
        best_epoch=best.epoch,
        images_per_s=median(row.images_per_s for row in history),
        model=model.eval(),
    )
    if group.is_main:
        _write_run(result, config=config, split=split)
        delete_state(run_dir)
    return result


def _device(config: TrainConfig) -> str:
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def _unfreeze(model: LesionModel, *, config: TrainConfig) -> list[nn.Module]:
    """Enable gradients for the head and the tuned part of the image tower only; returns these modules."""
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
        raise UserError(f"tuned: last is supported for preset lite only, not for {config.preset}; use all or none")
    trunk = model.towers.visual.get_submodule("trunk")
    return [trunk.get_submodule(name) for name in LAST_STAGES]


def _set_train_mode(model: LesionModel, *, trained_parts: Sequence[nn.Module], frozen_norm: bool) -> None:
    """Training mode for the trained parts; the rest (the frozen text tower with its dropout) stays in eval mode."""
    model.eval()
    for part in trained_parts:
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
class _BatchTrainer:
    """Everything that stays the same from batch to batch. `model`: possibly wrapped in DistributedDataParallel."""

    model: nn.Module
    optimiser: Optimizer
    transform: v2.Transform
    config: TrainConfig
    group: ProcessGroup

    def train_batch(
        self, data: TensorData, order: Tensor, *, positions: Tensor, epoch: int, step: bool
    ) -> dict[str, float]:
        """Accumulate the gradients of one batch and, with `step`, update the weights; returns the batch's loss terms.

        order: the epoch's sample of rows; positions: those of the batch in `order`.
        """
        config, group, device = self.config, self.group, data.labels.device
        shard = group.shard(positions)
        rows = order[shard]
        seeds = augmentation_seeds(shard, seed=config.seed, epoch=epoch)
        pixels = augment(data.pixels[rows], self.transform, seeds=seeds).to(device)
        features = None if data.text is None else data.text[rows.to(device)]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_use_bf16(config, device)):
            image, text = self.model(pixels, features)
        labels = data.labels[order[positions].to(device)]
        image = group.gather(image, size=len(labels))
        terms = (
            image_loss(image, labels)
            if text is None
            else image_text_loss(image, group.gather(text, size=len(labels)), labels, weights=config.losses)
        )
        (terms.total / config.accumulate).backward()  # type: ignore[no-untyped-call]
        if step:
            self.optimiser.step()
            self.optimiser.zero_grad()
        return {field.name: getattr(terms, field.name).item() for field in fields(LossTerms)}


def _use_bf16(config: TrainConfig, device: torch.device) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def _epoch_row(
    epoch: int, terms: Sequence[Mapping[str, float]], *, rate: float, model: LesionModel, val_data: TensorData
) -> EpochRow:
    """The epoch's metrics. Raises UserError if training diverged."""
    means = {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}
    logits, labels = predict_images(model, val_data.pixels).logits, val_data.labels.cpu()
    val_ce = functional.cross_entropy(logits, labels).item()
    if not (math.isfinite(means["total"]) and math.isfinite(val_ce)):
        raise UserError(f"training diverged in epoch {epoch} (loss is NaN or infinite); lower lr and head_lr")
    return EpochRow(
        epoch=epoch,
        loss=means.pop("total"),
        val_ce=val_ce,
        val_balanced_accuracy=balanced_accuracy(labels.numpy(), logits.argmax(dim=1).numpy()),
        images_per_s=rate,
        **means,
    )


def _log_to_tensorboard(writer: SummaryWriter | None, row: EpochRow) -> None:
    if writer is not None:
        for name, value in asdict(row).items():
            writer.add_scalar(name, value, row.epoch)
        writer.flush()


def _write_history(history: Sequence[EpochRow], *, run_dir: Path) -> None:
    columns = [field.name for field in fields(EpochRow)]
    write_csv(run_dir / "history.csv", columns, (asdict(row).values() for row in history))


def _write_run(result: TrainResult, *, config: TrainConfig, split: Split) -> None:
    summary = {
        "config": config.model_dump(mode="json"),
        "classes": result.model.classes,
        "with_notes": result.model.with_notes,
        "images": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "split_seed": split.seed,
        "best_epoch": result.best_epoch,
        "images_per_s": round(result.images_per_s, 1),
    }
    write_text(result.run_dir / "run.json", json.dumps(summary, indent=2) + "\n")
