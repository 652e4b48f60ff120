"""Model folders for the retrieval service, laid out as dermnote_contracts.manifest says. Whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dermnote_contracts import __version__
from dermnote_contracts.manifest import MANIFEST_NAME, ModelManifest, Preprocessing
from dermnote_train.files import atomic_folder
from dermnote_train.models import towers
from dermnote_train.models.model import EMBEDDING, LesionModel
from dermnote_train.models.onnx_export import write_graphs
from dermnote_train.models.towers import CONTEXT_TOKENS, TOKENIZER_FILES, Towers

WEIGHTS, HEADS, CONFIG = "open_clip_model.safetensors", "heads.safetensors", "open_clip_config.json"
LITE_IMAGE_SIZE = 224  # what EfficientNet-Lite0 was trained at

Runtime = Literal["both", "onnx", "openclip"]
"""What a folder can be served by: ONNX graphs, open_clip's own files, or either of them."""


@dataclass(frozen=True)
class _Shape:
    """What the manifest says of the vectors and of the data behind them."""

    aligned: bool
    image_dim: int
    text_dim: int
    classes: tuple[str, ...] = ()
    synthetic: bool = False


def export_lite(
    models_dir: Path, *, name: str = "lite", image_size: int = LITE_IMAGE_SIZE, runtime: Runtime = "both"
) -> Path:
    """The pretrained towers as they are: vectors of 1280 (image) and 384 (text), not aligned. Returns the folder."""
    lite = towers.lite(image_size=image_size)
    shape = _Shape(aligned=False, image_dim=lite.image_features, text_dim=lite.text_features)
    return _write(models_dir / name, lite, heads={}, shape=shape, runtime=runtime)


def export_model(
    model: LesionModel,
    *,
    models_dir: Path,
    name: str,
    synthetic: bool = False,
    runtime: Runtime = "both",
    card: Path | None = None,
) -> Path:
    """A trained model: its tuned towers, and per branch the two linear layers as one. Returns models_dir/name.

    Trained with notes, both vectors are 128 wide and aligned. Trained on images alone, the text vectors are the text
    tower's own and nothing is aligned. `synthetic`: it was trained on drawn pictures. `card`: taken along as README.md.
    """
    head = model.head
    text = folded(head.text, head.shared) if model.with_notes else _identity(model.towers.text_features)
    shape = _Shape(
        aligned=model.with_notes,
        image_dim=EMBEDDING,
        text_dim=text.out_features,
        classes=model.classes,
        synthetic=synthetic,
    )
    heads = {"image": folded(head.image, head.shared), "text": text}
    return _write(models_dir / name, model.towers, heads=heads, shape=shape, runtime=runtime, card=card)


@torch.no_grad()
def folded(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """second(first(x)) as one linear layer."""
    both = nn.Linear(first.in_features, second.out_features)
    both.weight.copy_(second.weight @ first.weight)
    both.bias.copy_(second.weight @ first.bias + second.bias)
    return both


@torch.no_grad()
def _identity(width: int) -> nn.Linear:
    same = nn.Linear(width, width)
    same.weight.copy_(torch.eye(width))
    same.bias.zero_()
    return same


def _write(
    folder: Path,
    source: Towers,
    *,
    heads: Mapping[str, nn.Linear],
    shape: _Shape,
    runtime: Runtime,
    card: Path | None = None,
) -> Path:
    description = source.description
    with atomic_folder(folder) as fresh:
        weights = _write_weights(fresh, source, heads=heads)
        identity = _identity_of(weights, preprocessing=source.preprocessing)
        if runtime == "onnx":
            for name in weights:
                (fresh / name).unlink()
        else:
            (fresh / CONFIG).write_text(_config(source), encoding="utf-8")
        if runtime != "openclip":
            write_graphs(fresh, source, heads=heads)
        for file in TOKENIZER_FILES:
            shutil.copyfile(description.tokenizer / file, fresh / file)
        if card is not None and card.exists():
            shutil.copyfile(card, fresh / "README.md")
        manifest = ModelManifest(
            kind="onnx" if runtime == "onnx" else "openclip",
            name=folder.name,
            model_id=f"{folder.name}-{identity}",
            aligned=shape.aligned,
            image_dim=shape.image_dim,
            text_dim=shape.text_dim,
            context_tokens=CONTEXT_TOKENS,
            preprocessing=source.preprocessing,
            files={path.name: _sha256(path) for path in sorted(fresh.iterdir())},
            classes=list(shape.classes),
            synthetic_data=shape.synthetic,
            created_at=datetime.now(UTC),
            made_by=f"dermnote-train {__version__}",
        )
        (fresh / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for path in fresh.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner alone; the service may be another user
    return folder


def _write_weights(folder: Path, source: Towers, *, heads: Mapping[str, nn.Linear]) -> dict[str, str]:
    """Towers and heads as safetensors; returns the files' sha256."""
    save_file(_state(source.clip), folder / WEIGHTS)
    if heads:
        save_file(_state(nn.ModuleDict(dict(heads))), folder / HEADS)
    return {name: _sha256(folder / name) for name in (WEIGHTS, HEADS) if (folder / name).exists()}


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _config(source: Towers) -> str:
    size = source.preprocessing
    config: dict[str, Any] = {
        "model_cfg": dict(source.description.model_cfg),
        "preprocess_cfg": {
            "size": size.image_size,
            "mean": size.mean,
            "std": size.std,
            "interpolation": size.interpolation,
            "resize_mode": "shortest",
        },
    }
    return json.dumps(config, indent=2) + "\n"


def _identity_of(weights: Mapping[str, str], *, preprocessing: Preprocessing) -> str:
    """12 hex digits over the weights and the preprocessing: the same weights at another size give other vectors.

    The runtime is no part of it: ONNX and open_clip give the same vectors, so that a store can be served by either.
    """
    parts = [*weights.values(), preprocessing.model_dump_json()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
