"""Training data: what a split must provide, its tensors in memory, and the rows that each epoch samples.

Samples do not depend on the number of processes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dermnote_train.data.records import Record, Split
from dermnote_train.errors import UserError
from dermnote_train.models import images
from dermnote_train.models.features import text_features
from dermnote_train.models.model import LesionModel
from dermnote_train.progress import Report
from dermnote_train.training.distributed import ProcessGroup

MIN_PER_CLASS = 2
MIN_VALIDATION = 2


@dataclass(frozen=True)
class TensorData:
    """One part of a split in memory. pixels: uint8 [n, 3, s, s]; text: [n, text_features] or None; labels: [n]."""

    pixels: Tensor
    text: Tensor | None
    labels: Tensor


def load_tensors(
    records: Sequence[Record],
    *,
    model: LesionModel,
    notes: Mapping[str, str] | None,
    cache_dir: Path,
    group: ProcessGroup,
    progress: Report,
) -> TensorData:
    """Decode the images and compute the text features of records; labels and text are on the model's device."""
    pixels = images.decode(records, preprocessing=model.towers.preprocessing, progress=progress)
    labels = torch.tensor([model.classes.index(record.label) for record in records], device=model.device)
    if notes is None:
        return TensorData(pixels=pixels, text=None, labels=labels)
    texts = [notes[record.image_id] for record in records]
    if not group.is_main:
        group.barrier()  # until the main rank has written the cache
    text = text_features(texts, towers=model.towers, cache_dir=cache_dir, progress=progress)
    if group.is_main:
        group.barrier()
    return TensorData(pixels=pixels, text=text.to(model.device), labels=labels)


def check_trainable(split: Split, *, classes: Sequence[str], notes: Mapping[str, str] | None) -> None:
    """Raise UserError, which says what is missing and how to fix it, if the split cannot be trained on."""
    if len(classes) < 2:
        raise UserError(f"the data set has only {len(classes)} class; at least 2 are needed")
    unknown = sorted({record.label for record in (*split.train, *split.val)} - set(classes))
    if unknown:
        raise UserError(f"labels that are not among the classes: {', '.join(unknown)}")
    counts = Counter(record.label for record in split.train)
    short = [f"{name} ({counts[name]})" for name in classes if counts[name] < MIN_PER_CLASS]
    if short:
        raise UserError(
            f"too few training images of {', '.join(short)}: each class needs at least {MIN_PER_CLASS} after the "
            "split; add images or leave the class out"
        )
    if len(split.val) < MIN_VALIDATION:
        raise UserError(
            f"only {len(split.val)} validation images: early stopping needs at least {MIN_VALIDATION}; "
            "add images or use another split"
        )
    if notes is not None:
        _check_notes(split.train, notes=notes)


def _check_notes(records: Sequence[Record], *, notes: Mapping[str, str]) -> None:
    missing = [record.image_id for record in records if not notes.get(record.image_id, "").strip()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(records)} training images have no note (the first: {missing[0]}); run "
            "`dermnote notes` again to write the missing ones"
        )


def balanced_sample(labels: Tensor, *, classes: int, seed: int, epoch: int) -> Tensor:
    """Sample as many rows as there are images, with replacement, every class equally likely: int64 [n]."""
    counts = torch.bincount(labels.cpu(), minlength=classes)
    weights = (1 / counts.double())[labels.cpu()]
    generator = torch.Generator().manual_seed(_hash(seed, epoch))
    return torch.multinomial(weights, len(labels), replacement=True, generator=generator)


def augmentation_seeds(positions: Tensor, *, seed: int, epoch: int) -> list[int]:
    """A seed for each position of an epoch's sample, the same in whichever process augments it."""
    return [_hash(seed, epoch, int(position) + 1) for position in positions]


def _hash(*parts: int) -> int:
    """A 63-bit hash of several numbers (FNV-1a), so that neighbouring seeds give unrelated hashes."""
    digest = 0xCBF29CE484222325
    for part in parts:
        for byte in part.to_bytes(8, "little"):
            digest = ((digest ^ byte) * 0x100000001B3) % 2**64
    return digest >> 1
