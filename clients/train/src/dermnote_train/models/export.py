"""Model folders for the retrieval service, in the layout of dermnote_contracts.manifest. Written atomically."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dermnote_contracts import __version__
from dermnote_contracts.manifest import MANIFEST_NAME, ModelManifest, Preprocessing
from dermnote_train.config import Runtime
from dermnote_train.files import atomic_folder, sha256_file
from dermnote_train.models import towers
from dermnote_train.models.model import LesionModel
from dermnote_train.models.onnx_export import write_graphs
from dermnote_train.models.towers import CONTEXT_TOKENS, TOKENIZER_FILES, Towers

WEIGHTS, HEADS, CONFIG = "open_clip_model.safetensors", "heads.safetensors", "open_clip_config.json"
LITE_IMAGE_SIZE = 224  # the training size of EfficientNet-Lite0


def export_lite(
    models_dir: Path, *, name: str = "lite", image_size: int = LITE_IMAGE_SIZE, runtime: Runtime = "both"
) -> Path:
    """Export the pretrained lite towers, not aligned: image vectors of 1280 values, text vectors of 384."""
    lite = towers.lite(image_size=image_size)
    return _write(models_dir / name, lite, heads={}, runtime=runtime)


def export_model(
    model: LesionModel,
    *,
    models_dir: Path,
    name: str,
    synthetic: bool = False,
    runtime: Runtime = "both",
    card: Path | None = None,
) -> Path:
    """Export a trained model: its towers, and one folded linear layer per branch. Returns models_dir/name.

    A model trained with notes gives aligned image and text vectors of 128 values. If it was trained on images alone,
    its text vectors are the text tower's features, not aligned. `synthetic`: trained on drawn images. `card`: copied as
    README.md.
    """
    head = model.head
    text = fold_linear(head.text, head.shared) if model.with_notes else _identity(model.towers.text_features)
    heads = {"image": fold_linear(head.image, head.shared), "text": text}
    return _write(
        models_dir / name,
        model.towers,
        heads=heads,
        aligned=model.with_notes,
        classes=model.classes,
        synthetic=synthetic,
        runtime=runtime,
        card=card,
    )


@torch.no_grad()
def fold_linear(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """second(first(x)) as one linear layer."""
    linear = nn.Linear(first.in_features, second.out_features)
    linear.weight.copy_(second.weight @ first.weight)
    linear.bias.copy_(second.weight @ first.bias + second.bias)
    return linear


@torch.no_grad()
def _identity(width: int) -> nn.Linear:
    linear = nn.Linear(width, width)
    linear.weight.copy_(torch.eye(width))
    linear.bias.zero_()
    return linear


def _write(
    folder: Path,
    source: Towers,
    *,
    heads: Mapping[str, nn.Linear],
    runtime: Runtime,
    aligned: bool = False,
    classes: Sequence[str] = (),
    synthetic: bool = False,
    card: Path | None = None,
) -> Path:
    description = source.description
    with atomic_folder(folder) as partial:
        weights = _write_weights(partial, source, heads=heads)
        model_hash = _model_hash(weights, preprocessing=source.preprocessing)
        if runtime == "onnx":
            for name in weights:
                (partial / name).unlink()
        else:
            (partial / CONFIG).write_text(_config(source), encoding="utf-8")
        if runtime != "openclip":
            write_graphs(partial, source, heads=heads)
        for file in TOKENIZER_FILES:
            shutil.copyfile(description.tokenizer / file, partial / file)
        if card is not None and card.exists():
            shutil.copyfile(card, partial / "README.md")
        manifest = ModelManifest(
            kind="onnx" if runtime == "onnx" else "openclip",
            name=folder.name,
            model_id=f"{folder.name}-{model_hash}",
            aligned=aligned,
            image_dim=heads["image"].out_features if heads else source.image_features,
            text_dim=heads["text"].out_features if heads else source.text_features,
            context_tokens=CONTEXT_TOKENS,
            preprocessing=source.preprocessing,
            files={path.name: sha256_file(path) for path in sorted(partial.iterdir())},
            classes=list(classes),
            synthetic_data=synthetic,
            created_at=datetime.now(UTC),
            made_by=f"dermnote-train {__version__}",
        )
        (partial / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for path in partial.iterdir():
            path.chmod(0o644)  # safetensors files are private to their owner, and the service may run as another user
    return folder


def _write_weights(folder: Path, source: Towers, *, heads: Mapping[str, nn.Linear]) -> dict[str, str]:
    """Write towers and heads as safetensors; returns each file's sha256."""
    save_file(_state(source.clip), folder / WEIGHTS)
    if heads:
        save_file(_state(nn.ModuleDict(dict(heads))), folder / HEADS)
    return {name: sha256_file(folder / name) for name in (WEIGHTS, HEADS) if (folder / name).exists()}


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _config(source: Towers) -> str:
    preprocessing = source.preprocessing
    config: dict[str, Any] = {
        "model_cfg": dict(source.description.model_cfg),
        "preprocess_cfg": {
            "size": preprocessing.image_size,
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "interpolation": preprocessing.interpolation,
            "resize_mode": "shortest",
        },
    }
    return json.dumps(config, indent=2) + "\n"


def _model_hash(weights: Mapping[str, str], *, preprocessing: Preprocessing) -> str:
    """12 hex digits that identify weights and preprocessing: with another image size, the same weights give other
    vectors.

    The runtime is not included: ONNX and open_clip give the same vectors, so either can serve the same store.
    """
    parts = [*weights.values(), preprocessing.model_dump_json()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
