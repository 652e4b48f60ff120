"""Features of the untouched image tower for several augmented views of each picture: computed once, kept in files."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dermnote_train.data.records import Record
from dermnote_train.files import atomic_write
from dermnote_train.models import images
from dermnote_train.models.towers import Towers
from dermnote_train.progress import Report, Step, silent
from dermnote_train.training.augment import Augmentation, augmentation, augmented

log = logging.getLogger(__name__)
CHUNK = 128
"""Pictures a file: what a broken run has to compute again at most."""


def view_features(
    records: Sequence[Record],
    *,
    towers: Towers,
    views: int,
    kind: Augmentation = "paper",
    cache_dir: Path,
    progress: Report = silent,
) -> Tensor:
    """float16 [n, 1 + views, image_features]: each picture as it is, then `views` times augmented (augment.py).

    The same for the same pictures, tower, size and versions; kept below `cache_dir`. Raises UserError for a picture
    that can't be read.
    """
    towers.eval()
    facts = (tower_id(towers), towers.preprocessing.model_dump_json(), views, kind)
    parts = []
    for start in range(0, len(records), CHUNK):
        chunk = records[start : start + CHUNK]
        path = cache_dir / f"{_key(chunk, facts=(*facts, start))}.safetensors"
        found = _read(path)
        if found is None:
            found = _computed(chunk, towers=towers, views=views, kind=kind, seed=start)
            with atomic_write(path) as partial:
                save_file({"features": found}, partial)
        parts.append(found)
        progress(Step("look at views", min(start + CHUNK, len(records)), len(records)))
    return torch.cat(parts)


def tower_id(towers: Towers) -> str:
    """sha256 of the image tower's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(towers.visual.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _key(records: Sequence[Record], *, facts: tuple[object, ...]) -> str:
    digest = hashlib.sha256(repr((*facts, torch.__version__, torchvision.__version__)).encode())
    for record in records:
        digest.update(hashlib.sha256(record.image_path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _read(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    try:
        return load_file(path)["features"]
    except (SafetensorError, KeyError):
        log.warning("%s is damaged: its features are computed again", path.name)
        return None


@torch.inference_mode()
def _computed(records: Sequence[Record], *, towers: Towers, views: int, kind: Augmentation, seed: int) -> Tensor:
    pixels = images.decode(records, preprocessing=towers.preprocessing)
    transform = augmentation(image_size=towers.preprocessing.image_size, kind=kind)
    towers.visual.to(memory_format=torch.channels_last)  # 1.6 times as fast on CPUs
    found = [towers.image_features_of(pixels)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found += [towers.image_features_of(augmented(pixels, transform)) for _ in range(views)]
    return torch.stack(found, dim=1).half()
