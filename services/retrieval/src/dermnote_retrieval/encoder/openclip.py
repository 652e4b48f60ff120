"""open_clip models from a model folder. The only file that imports torch and open_clip (extra `torch`).

A folder holds manifest.json, open_clip_config.json, open_clip_model.safetensors, config.json and tokenizer.json of the
text tower, and heads.safetensors if linear heads follow the towers. vector = normalise(head(tower(x))).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from open_clip.model import CustomTextCLIP
from safetensors.torch import load_file

from dermnote_contracts.manifest import ModelManifest
from dermnote_contracts.problems import ModelRefused
from dermnote_retrieval.encoder.base import TOKENIZER, BatchTokenizer, FolderEncoder, check_vectors, loading_errors

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
HEADS = "heads.safetensors"
TEXT_CONFIG = "config.json"
NEEDED = (CONFIG, WEIGHTS, TOKENIZER, TEXT_CONFIG)

Head = tuple[torch.Tensor, torch.Tensor | None]


class OpenClipEncoder(FolderEncoder):
    """Two towers, optional linear heads and a tokenizer, all from one folder that was verified against its manifest."""

    def __init__(self, folder: Path, manifest: ModelManifest, *, threads: int) -> None:
        super().__init__(manifest)
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with loading_errors(manifest):
            # Channels last: convolutions of several images take a third less time.
            self._model = _build_model(folder).to(self._device, memory_format=torch.channels_last).eval()
            self._heads = _load_heads(folder, manifest, device=self._device)
            pad_id = int(self._model.text.config.pad_token_id)
            self._tokenize = BatchTokenizer(folder, pad_id=pad_id, context_tokens=manifest.context_tokens)
            check_vectors(self)

    @torch.inference_mode()
    def _image_rows(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        images = torch.from_numpy(pixels).to(self._device, memory_format=torch.channels_last)
        return self._rows(self._model.encode_image(images), head="image")

    @torch.inference_mode()
    def _text_rows(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self._rows(self._model.encode_text(torch.from_numpy(tokens).to(self._device)), head="text")

    def _rows(self, features: torch.Tensor, *, head: str) -> npt.NDArray[np.float32]:
        if head in self._heads:
            features = F.linear(features, *self._heads[head])
        rows: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return rows


def _build_model(folder: Path) -> CustomTextCLIP:
    config = json.loads((folder / CONFIG).read_text("utf-8"))["model_cfg"]
    vision, text = config["vision_cfg"], config["text_cfg"]
    _reject_foreign_sources(vision, text)
    text = text | {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
    model = CustomTextCLIP(embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=text)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return model


def _reject_foreign_sources(vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Prevent a configuration from making open_clip download anything or read outside the folder."""
    name = vision.get("timm_model_name")
    if not isinstance(name, str) or any(char in name for char in ":/\\") or vision.get("timm_model_pretrained"):
        raise ModelRefused(f"{CONFIG}: vision_cfg must name a timm architecture, without pretrained weights")
    if text.get("hf_model_name") != "." or text.get("hf_model_pretrained") is not False:
        raise ModelRefused(f'{CONFIG}: text_cfg must have hf_model_name "." and hf_model_pretrained false')


def _load_heads(folder: Path, manifest: ModelManifest, *, device: torch.device) -> dict[str, Head]:
    if HEADS not in manifest.files:
        return {}
    tensors = load_file(folder / HEADS, device=str(device))
    return {
        name: (tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))
        for name in ("image", "text")
        if f"{name}.weight" in tensors
    }
