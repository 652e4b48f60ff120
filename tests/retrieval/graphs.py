"""A small model folder of kind `onnx`: real graphs of a few operators, built quickly."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from dermnote_contracts.manifest import ModelManifest, Preprocessing

DIM, PAD = 8, 3
WORDS = ["[UNK]", "red", "blue", "[PAD]", "lesion", "of", "the", "back"]
HOW = Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def image_graph() -> onnx.ModelProto:
    """The mean colour, spread over DIM dimensions."""
    spread = np.random.default_rng(1).normal(size=(3, DIM)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "spread"], ["vectors"]),
    ]
    initializers = [numpy_helper.from_array(np.array([2, 3]), "axes"), numpy_helper.from_array(spread, "spread")]
    return _model(nodes, initializers, name="pixels", kind=TensorProto.FLOAT, shape=["n", 3, 32, 32])


def text_graph(*, pad: str | None = str(PAD)) -> onnx.ModelProto:
    """The mean of the words' rows, without padding."""
    rows = np.random.default_rng(2).normal(size=(len(WORDS), DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["rows", "tokens"], ["embedded"]),
        helper.make_node("Equal", ["tokens", "pad"], ["is_pad"]),
        helper.make_node("Not", ["is_pad"], ["is_word"]),
        helper.make_node("Cast", ["is_word"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weight", "last"], ["weights"]),
        helper.make_node("Mul", ["embedded", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "tokens_axis"], ["vectors"], keepdims=0),
    ]
    initializers = [
        numpy_helper.from_array(rows, "rows"),
        numpy_helper.from_array(np.array(PAD), "pad"),
        numpy_helper.from_array(np.array([-1]), "last"),
        numpy_helper.from_array(np.array([1]), "tokens_axis"),
    ]
    model = _model(nodes, initializers, name="tokens", kind=TensorProto.INT64, shape=["n", "tokens"])
    if pad is not None:
        helper.set_model_props(model, {"pad_token_id": pad})
    return model


def write_folder(folder: Path, *, text: onnx.ModelProto | None = None, **manifest: Any) -> Path:
    """The complete folder with its manifest."""
    folder.mkdir(parents=True)
    onnx.save(image_graph(), folder / "image.onnx")
    onnx.save(text or text_graph(), folder / "text.onnx")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_manifest(folder, **manifest)
    return folder


def write_manifest(folder: Path, **changes: Any) -> None:
    """A manifest that matches the folder's files, except for the changes."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    given = {
        "kind": "onnx",
        "name": folder.name,
        "model_id": "graphs-1",
        "aligned": True,
        "image_dim": DIM,
        "text_dim": DIM,
        "context_tokens": 12,
        "preprocessing": HOW,
        "files": files,
        "created_at": datetime.now(UTC),
        "made_by": "test",
    }
    (folder / "manifest.json").write_text(ModelManifest(**(given | changes)).model_dump_json())


def _model(nodes: list[Any], initializers: list[Any], *, name: str, kind: int, shape: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", DIM])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
