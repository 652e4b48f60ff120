"""ONNX graphs from a model folder: their vectors, invalid folders, and serving without torch."""

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper
from packaging.requirements import Requirement
from PIL import Image

from dermnote_contracts.problems import ModelRefused
from dermnote_retrieval.encoder.model_folders import FolderModels
from dermnote_retrieval.encoder.onnx import OnnxEncoder
from tests.retrieval.graphs import DIM, image_graph, text_graph, write_folder, write_manifest
from tests.retrieval.runtime.test_process import Server

SERVE = "import sys; sys.path[:0] = sys.argv[1:]; from dermnote_retrieval.__main__ import main; main()"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "models/tiny")


def load(folder: Path, *, runtime: Any = "auto") -> Any:
    return FolderModels(folder.parent, threads=1, runtime=runtime).load(folder.name)


def test_vectors_are_unit_rows_independent_of_the_batch(tiny: Path) -> None:
    encoder = load(tiny)
    texts = ["red", "a blue lesion of the back", "red lesion"]
    images = [Image.new("RGB", size, colour) for size, colour in (((40, 64), "red"), ((90, 33), "navy"))]
    for together, alone in (
        (encoder.encode_texts(texts), [encoder.encode_texts([text])[0] for text in texts]),
        (encoder.encode_images(images), [encoder.encode_images([image])[0] for image in images]),
    ):
        assert together.dtype == np.float32
        assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
        assert np.abs(together - np.stack(alone)).max() < 1e-6


def test_empty_inputs_give_no_rows(tiny: Path) -> None:
    encoder = load(tiny)
    assert encoder.encode_images([]).shape == (0, DIM)
    assert encoder.encode_texts([]).shape == (0, DIM)


@pytest.mark.parametrize("runtime", ["auto", "onnx"])
def test_a_folder_with_graphs_is_served_by_onnx(tiny: Path, runtime: str) -> None:
    assert isinstance(load(tiny, runtime=runtime), OnnxEncoder)


def test_open_clip_needs_its_own_files(tiny: Path) -> None:
    with pytest.raises(ModelRefused, match=r"does not list open_clip_config\.json"):
        load(tiny, runtime="openclip")


def _replace(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def _weights_outside(folder: Path) -> None:
    """A graph whose weights are in a file outside the folder."""
    model = image_graph()
    (folder.parent / "secret").write_bytes(bytes(4 * 3 * DIM))
    for tensor in model.graph.initializer:
        if tensor.name == "spread":
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../secret")
    (folder / "image.onnx").write_bytes(model.SerializeToString())


def _other_input(folder: Path) -> None:
    model = image_graph()
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"
    onnx.save(model, folder / "image.onnx")


def _two_outputs(folder: Path) -> None:
    model = image_graph()
    model.graph.output.append(helper.make_tensor_value_info("colour", onnx.TensorProto.FLOAT, ["n", 3]))
    onnx.save(model, folder / "image.onnx")


REFUSED: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "no graph": (lambda folder: (folder / "text.onnx").unlink(), {}, r"does not list text\.onnx"),
    "no ONNX": (_replace("image.onnx", b"nonsense"), {}, "tiny: "),
    "an empty graph": (_replace("image.onnx", b""), {}, "tiny: "),
    "other widths": (lambda _: None, {"text_dim": 9}, "the model's vectors have 8 and 8 values"),
    "no padding": (
        lambda folder: onnx.save(text_graph(pad=None), folder / "text.onnx"),
        {},
        "lacks pad_token_id",
    ),
    "padding in words": (
        lambda folder: onnx.save(text_graph(pad="none"), folder / "text.onnx"),
        {},
        "lacks pad_token_id",
    ),
    "weights outside of the folder": (_weights_outside, {}, "tiny: "),
    "another input": (_other_input, {}, "tiny: "),
    "two outputs": (_two_outputs, {}, "tiny: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_graphs_are_rejected_with_one_line(tiny: Path, name: str) -> None:
    change, manifest, message = REFUSED[name]
    change(tiny)
    write_manifest(tiny, **manifest)

    with pytest.raises(ModelRefused, match=message) as refused:
        load(tiny)

    assert "\n" not in refused.value.detail


def test_a_changed_graph_is_rejected(tiny: Path) -> None:
    (tiny / "image.onnx").write_bytes((tiny / "image.onnx").read_bytes() + b"\0")

    with pytest.raises(ModelRefused, match="sha256 mismatch"):
        load(tiny)


def test_the_service_runs_with_only_its_declared_dependencies(tiny: Path, tmp_path: Path, put: Any, paint: Any) -> None:
    """Without torch and open_clip: an environment of the requirements of dermnote-retrieval without extras."""
    site = tmp_path / "site"
    paths = _environment(site, "dermnote-retrieval")
    assert not {"torch", "open_clip", "torchvision", "transformers", "timm"} & {path.name for path in site.iterdir()}

    command = [sys.executable, "-S", "-I", "-c", SERVE, *paths]
    server = Server(
        tmp_path / "data",
        command=command,
        RETRIEVAL_ENCODER="onnx",
        RETRIEVAL_MODELS_DIR=str(tiny.parent),
        RETRIEVAL_MODEL="tiny",
    )
    try:
        with httpx.Client(base_url=server.url) as client:
            for colour in ("red", "blue"):
                put(client, colour, image=paint(colour), note=f"a {colour} lesion")
            by_image = client.post("/search", files={"image": paint("red")}, data={"via": "images"}).json()
            by_text = client.post("/search", json={"text": "a blue lesion", "via": "notes"}).json()
    finally:
        server.kill()

    assert (by_image["hits"][0]["id"], by_text["hits"][0]["id"]) == ("red", "blue")


def _environment(site: Path, distribution: str) -> list[str]:
    """A folder of links to a distribution's requirements, and the paths to import from."""
    site.mkdir()
    waiting, seen, paths = [(distribution, frozenset[str]())], set(), [str(site)]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        package = metadata.distribution(name)
        _link(package, site, paths)
        for text in package.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                waiting.append((needed.name.lower(), frozenset(needed.extras)))
    return paths


def _link(distribution: metadata.Distribution, site: Path, paths: list[str]) -> None:
    """Link a distribution's folders and modules; for an editable one, add its source folder."""
    for file in distribution.files or []:
        top, source = site / file.parts[0], Path(str(distribution.locate_file(file.parts[0])))
        if file.suffix == ".pth":
            paths.extend(Path(str(distribution.locate_file(file))).read_text().split())
        elif file.parts[0] != ".." and not top.exists():
            top.symlink_to(source)
