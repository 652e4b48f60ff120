"""Features of the frozen text tower: computed once per distinct text, kept in a file, never half-written."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from dermnote_train.files import atomic_write
from dermnote_train.models.towers import Towers
from dermnote_train.progress import Report, Step, silent

log = logging.getLogger(__name__)
BATCH = 64
Known = dict[bytes, NDArray[np.float32]]


def text_features(
    texts: Sequence[str], *, towers: Towers, cache_dir: Path | None = None, progress: Report = silent
) -> Tensor:
    """n texts -> float32 [n, text_features] on the CPU; equal texts get the very same row.

    cache_dir: where features are kept between runs, by sha256 of the text, one file a text tower; None keeps nothing.
    """
    keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    path = None if cache_dir is None else cache_dir / f"text-features-{towers.text_id[:16]}.safetensors"
    known = {} if path is None else _read(path, width=towers.text_features)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        known |= _computed(missing, towers=towers, progress=progress)
        if path is not None:
            _write(path, known)
    if not keys:
        return torch.empty((0, towers.text_features))
    return torch.from_numpy(np.stack([known[key] for key in keys]))


def _computed(texts: Mapping[bytes, str], *, towers: Towers, progress: Report) -> Known:
    ordered = sorted(texts.items(), key=lambda item: len(item[1]))  # alike lengths together: little padding
    found: Known = {}
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        rows = towers.text_features_of([text for _, text in batch]).float().cpu().numpy()
        found |= {key: row for (key, _), row in zip(batch, rows, strict=True)}
        progress(Step("read notes", len(found), len(ordered)))
    return found


def _read(path: Path, *, width: int) -> Known:
    if not path.exists():
        return {}
    try:
        stored = load_file(path)
        keys, rows = stored["keys"], stored["features"]
    except (SafetensorError, KeyError):
        log.warning("%s is damaged: text features are computed again", path.name)
        return {}
    if rows.shape != (len(keys), width):
        log.warning("%s does not fit the text tower: text features are computed again", path.name)
        return {}
    return {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}


def _write(path: Path, known: Known) -> None:
    keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), 32)
    with atomic_write(path) as partial:
        save_file({"keys": keys.copy(), "features": np.stack(list(known.values()))}, partial)
