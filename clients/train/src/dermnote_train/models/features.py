"""Features of the frozen text tower, computed once per distinct text and cached in a file."""

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
FeatureTable = dict[bytes, NDArray[np.float32]]
"""sha256 of a text -> its features."""


def text_features(
    texts: Sequence[str], *, towers: Towers, cache_dir: Path | None = None, progress: Report = silent
) -> Tensor:
    """n texts -> float32 [n, text_features] on the CPU; equal texts get identical rows.

    cache_dir: folder of a cache that later runs reuse, one file per text tower; None disables it.
    """
    keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    path = None if cache_dir is None else cache_dir / f"text-features-{towers.text_id[:16]}.safetensors"
    table = {} if path is None else _read(path, width=towers.text_features)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in table}
    if missing:
        table |= _compute(missing, towers=towers, progress=progress)
        if path is not None:
            _write(path, table)
    if not keys:
        return torch.empty((0, towers.text_features))
    return torch.from_numpy(np.stack([table[key] for key in keys]))


def _compute(texts: Mapping[bytes, str], *, towers: Towers, progress: Report) -> FeatureTable:
    ordered = sorted(texts.items(), key=lambda item: len(item[1]))  # batches of similar lengths need little padding
    table: FeatureTable = {}
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        rows = towers.encode_texts([text for _, text in batch]).float().cpu().numpy()
        table |= {key: row for (key, _), row in zip(batch, rows, strict=True)}
        progress(Step("encode notes", len(table), len(ordered)))
    return table


def _read(path: Path, *, width: int) -> FeatureTable:
    if not path.exists():
        return {}
    try:
        stored = load_file(path)
        keys, rows = stored["keys"], stored["features"]
    except (SafetensorError, KeyError) as error:
        log.warning("%s is damaged (%s); computing the text features again", path, error)
        return {}
    if rows.shape != (len(keys), width):
        log.warning("%s does not fit the text tower; computing the text features again", path)
        return {}
    return {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}


def _write(path: Path, table: FeatureTable) -> None:
    keys = np.frombuffer(b"".join(table), dtype=np.uint8).reshape(len(table), 32)
    with atomic_write(path) as partial:
        save_file({"keys": keys.copy(), "features": np.stack(list(table.values()))}, partial)
