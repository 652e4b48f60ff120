"""Exports towers with their heads as ONNX graphs, for serving without torch. The only module that writes ONNX."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from dermnote_contracts.manifest import IMAGE_GRAPH, PADDING, PIXELS, TEXT_GRAPH, TOKENS
from dermnote_train.models.towers import CONTEXT_TOKENS, Towers

OPSET = 20


class _Branch(nn.Module):
    """A tower followed by its head."""

    def __init__(self, tower: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.head(self.tower(inputs))
        return rows


def write_graphs(folder: Path, source: Towers, *, heads: Mapping[str, nn.Module]) -> None:
    """Write image.onnx (input float32 [n, 3, size, size]) and text.onnx (input int64 [n, tokens]) to `folder`.

    n and tokens are dynamic. Both graphs return float32 [n, dim], not normalised; without a head, the tower's features.
    """
    size = source.preprocessing.image_size
    _write(
        folder / IMAGE_GRAPH,
        _Branch(source.visual, heads.get("image", nn.Identity())),
        example=torch.zeros(2, 3, size, size),
        shape={0: Dim("n")},
        name=PIXELS,
    )
    _write(
        folder / TEXT_GRAPH,
        _Branch(source.text, heads.get("text", nn.Identity())),
        example=torch.ones(2, 16, dtype=torch.long),
        shape={0: Dim("n"), 1: Dim("tokens", min=1, max=CONTEXT_TOKENS)},
        name=TOKENS,
        metadata={PADDING: str(source.pad_token_id)},
    )


def _write(
    path: Path,
    branch: nn.Module,
    *,
    example: Tensor,
    shape: Mapping[int, Any],
    name: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    device = next(branch.parameters()).device
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        program = torch.onnx.export(
            branch.eval(),
            (example.to(device),),
            dynamo=True,
            dynamic_shapes=(dict(shape),),
            input_names=[name],
            output_names=["vectors"],
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch exported no graph for {path.name}")
    program.model.metadata_props.update(metadata or {})
    program.save(path, external_data=False)
