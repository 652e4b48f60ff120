"""The manifest of a model folder, which the training client exports and the retrieval service loads.

A folder of kind `openclip` holds `manifest.json`, `open_clip_config.json`, `open_clip_model.safetensors` (the towers,
in open_clip's layout), `heads.safetensors` (the linear heads, if any), the tokenizer's files and, optionally, the
same towers with their heads as ONNX graphs. A folder of kind `onnx` holds only manifest, graphs and tokenizer.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_NAME = "manifest.json"
IMAGE_GRAPH, TEXT_GRAPH = "image.onnx", "text.onnx"
# Graph inputs: float32 [n, 3, image_size, image_size], int64 [n, tokens]. Output: float32 [n, dim], not normalised.
PIXELS, TOKENS = "pixels", "tokens"
PADDING = "pad_token_id"
"""Key in the text graph's metadata: id of the padding token, which the graph masks."""
Vector3 = tuple[float, float, float]


class Preprocessing(BaseModel):
    """Image preprocessing: RGB, resize shorter side to `image_size`, centre crop, scale to 0..1, (x - mean) / std."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(ge=32, le=1024)
    mean: Vector3
    std: Vector3
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class ModelManifest(BaseModel):
    """Identity and shape of an encoder. `model_id` identifies the weights: vectors from different ids are never mixed.

    `image_dim`, `text_dim`: widths of the towers' unit vectors; equal when `aligned`.
    `files`: sha256 of every other file in the folder, by relative path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Literal["openclip", "onnx"] = "openclip"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
    model_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
    aligned: bool
    image_dim: int = Field(ge=1)
    text_dim: int = Field(ge=1)
    context_tokens: int = Field(ge=8)
    preprocessing: Preprocessing
    files: dict[str, str]
    classes: list[str] = []
    synthetic_data: bool = False
    created_at: datetime
    made_by: str
