"""open_clip models from a model folder. The only file that imports torch and open_clip (extra `torch`).

A folder holds manifest.json, open_clip_config.json, open_clip_model.safetensors, config.json and tokenizer.json of the
text tower, and heads.safetensors where linear heads follow the towers. vector = normalise(head(tower(x))).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows it by
from open_clip.model import CustomTextCLIP
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

from dermnote_contracts.manifest import ModelManifest, Preprocessing
from dermnote_contracts.problems import ModelRefused
from dermnote_retrieval.encoder.protocol import Vectors, unit_rows

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
HEADS = "heads.safetensors"
TOKENIZER = "tokenizer.json"
TEXT_CONFIG = "config.json"
NEEDED = (CONFIG, WEIGHTS, TOKENIZER, TEXT_CONFIG)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Head = tuple[torch.Tensor, torch.Tensor | None]


class OpenClipEncoder:
    """Two towers, optional linear heads, a tokenizer: all from one folder that was checked against its manifest."""

    def __init__(self, folder: Path, manifest: ModelManifest, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._manifest = manifest
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._model = _build_model(folder).to(self._device).eval()
            self._heads = _load_heads(folder, manifest, device=self._device)
            self._tokenizer = _load_tokenizer(folder, pad_id=self._pad_id, context_tokens=manifest.context_tokens)
            self._check_widths()
        except ModelRefused:
            raise
        except Exception as wrong:  # whatever open_clip, timm or transformers make of a foreign folder
            reason = str(wrong).strip().splitlines() or [type(wrong).__name__]
            raise ModelRefused(f"{manifest.name}: {reason[0]}") from wrong

    @property
    def manifest(self) -> ModelManifest:
        return self._manifest

    @property
    def _pad_id(self) -> int:
        return int(self._model.text.config.pad_token_id)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        if not images:
            return np.empty((0, self._manifest.image_dim), np.float32)
        pixels = np.stack([preprocess(image, self._manifest.preprocessing) for image in images])
        features = self._model.encode_image(torch.from_numpy(pixels).to(self._device))
        return self._vectors(features, head="image")

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self._manifest.text_dim), np.float32)
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        tokens = torch.tensor([row or [self._pad_id] for row in rows], dtype=torch.long, device=self._device)
        return self._vectors(self._model.encode_text(tokens), head="text")

    def close(self) -> None:
        """Nothing to let go of: the weights go with the object."""

    def _vectors(self, features: torch.Tensor, *, head: str) -> Vectors:
        if head in self._heads:
            features = F.linear(features, *self._heads[head])
        return unit_rows(features.float().cpu().numpy())

    def _check_widths(self) -> None:
        image = self.encode_images([Image.new("RGB", (64, 64), (200, 150, 120))])
        text = self.encode_texts(["a lesion"])
        if (image.shape[1], text.shape[1]) != (self._manifest.image_dim, self._manifest.text_dim):
            raise ModelRefused(
                f"{self._manifest.name}: gives vectors of {image.shape[1]} and {text.shape[1]}, "
                f"the manifest says {self._manifest.image_dim} and {self._manifest.text_dim}"
            )
        if not (np.isfinite(image).all() and np.isfinite(text).all()):
            raise ModelRefused(f"{self._manifest.name}: the weights give vectors that are not finite")


def preprocess(image: Image.Image, how: Preprocessing) -> npt.NDArray[np.float32]:
    """An RGB image as float32 [3, size, size]: shorter side to `image_size`, centre crop, 0..1, (x - mean) / std."""
    size, (width, height) = how.image_size, image.size
    short, long = min(width, height), max(width, height)
    scaled = (size, int(size * long / short)) if width <= height else (int(size * long / short), size)
    image = image.convert("RGB").resize(scaled, _RESAMPLING[how.interpolation])
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    normal = (pixels - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), dtype=np.float32)


def _build_model(folder: Path) -> CustomTextCLIP:
    config = json.loads((folder / CONFIG).read_text("utf-8"))["model_cfg"]
    vision, text = config["vision_cfg"], config["text_cfg"]
    _refuse_foreign_sources(vision, text)
    text = text | {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
    model = CustomTextCLIP(embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=text)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return model


def _refuse_foreign_sources(vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """A configuration must not make open_clip fetch anything or look outside the folder."""
    name = vision.get("timm_model_name")
    if not isinstance(name, str) or any(mark in name for mark in ":/\\") or vision.get("timm_model_pretrained"):
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


def _load_tokenizer(folder: Path, *, pad_id: int, context_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.enable_truncation(max_length=context_tokens)
    tokenizer.enable_padding(pad_id=pad_id, pad_token=tokenizer.id_to_token(pad_id) or "[PAD]")
    return tokenizer
