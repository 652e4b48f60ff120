"""Model folders: complete, named by their weights, and the retrieval service gets the client's vectors from them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import normalize

from dermnote_contracts.manifest import MANIFEST_NAME, ModelManifest
from dermnote_train.config import TrainConfig
from dermnote_train.models import export, images, inference
from dermnote_train.models.checkpoint import build_model
from dermnote_train.models.model import LesionModel

RUNTIMES = ("onnx", "openclip")
TEXTS = ["a benign lesion, nevus", "A 45-year-old woman with a malignant lesion, melanoma, of the back. " * 30, "nevus"]


@pytest.fixture
def model() -> LesionModel:
    return _model()


def _model() -> LesionModel:
    """An aligned model whose head and image tower differ from the pretrained ones."""
    torch.manual_seed(2)
    model = build_model(TrainConfig(image_size=64), classes=("nevus", "melanoma"), with_notes=True)
    with torch.no_grad():
        for weight in model.towers.visual.parameters():
            weight.mul_(1 + 0.01 * torch.randn_like(weight))
    return model.eval()


@pytest.fixture(scope="module")
def lite_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.export_lite(tmp_path_factory.mktemp("models"))


def _manifest(folder: Path) -> ModelManifest:
    return ModelManifest.model_validate_json((folder / MANIFEST_NAME).read_text("utf-8"))


def _images() -> list[Image.Image]:
    return [Image.fromarray(array) for array in (skimage.data.chelsea(), skimage.data.coffee())]


def _client_images(model: LesionModel) -> np.ndarray:
    preprocessing = model.towers.preprocessing
    pixels = torch.stack(
        [torch.from_numpy(images.preprocess(image, preprocessing=preprocessing)) for image in _images()]
    )
    return normalize(inference.predict_images(model, pixels).embedding, dim=1).numpy()


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    assert ours.shape == theirs.shape
    return (ours * theirs).sum(axis=1)


def _encoder(folder: Path, runtime: Any) -> Any:
    """The retrieval service's encoder for a folder."""
    models = pytest.importorskip("dermnote_retrieval.encoder.model_folders")
    encoder = models.FolderModels(folder.parent, threads=2, runtime=runtime).load(folder.name)
    assert type(encoder).__name__ == {"onnx": "OnnxEncoder", "openclip": "OpenClipEncoder"}[runtime]
    return encoder


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.export_model(_model(), models_dir=tmp_path_factory.mktemp("models"), name="trained")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_retrieval_service_gives_the_clients_vectors(
    model: LesionModel, trained_folder: Path, runtime: str
) -> None:
    encoder = _encoder(trained_folder, runtime)
    texts = normalize(inference.predict_texts(model, TEXTS).embedding, dim=1).numpy()
    assert _cosines(_client_images(model), encoder.encode_images(_images())).min() > 1 - 1e-4
    assert _cosines(texts, encoder.encode_texts(TEXTS)).min() > 1 - 1e-4


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_retrieval_service_gives_the_lite_towers_vectors(lite_folder: Path, runtime: str) -> None:
    encoder = _encoder(lite_folder, runtime)
    lite = export.towers.lite(image_size=224)
    pixels = [torch.from_numpy(images.preprocess(each, preprocessing=lite.preprocessing)) for each in _images()]
    with torch.inference_mode():
        ours = normalize(lite.encode_images(torch.stack(pixels)), dim=1).numpy()
    texts = normalize(lite.encode_texts(TEXTS), dim=1).numpy()
    assert _cosines(ours, encoder.encode_images(_images())).min() > 1 - 1e-4
    assert _cosines(texts, encoder.encode_texts(TEXTS)).min() > 1 - 1e-4


def test_onnx_and_open_clip_give_the_same_vectors(trained_folder: Path) -> None:
    """Texts of every length, alone and in a batch, and images of every shape: one model id for both runtimes."""
    ours, theirs = _encoder(trained_folder, "onnx"), _encoder(trained_folder, "openclip")
    texts = ["", "nevus", *(" ".join(["lesion"] * n) for n in (2, 17, 100, 253, 254, 255, 300)), *TEXTS]
    rng = np.random.default_rng(4)
    shapes = [(64, 64), (65, 64), (64, 65), (30, 200), (301, 97), (1, 1), (640, 480)]
    arrays = [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    for cosines in (
        _cosines(ours.encode_texts(texts), theirs.encode_texts(texts)),
        _cosines(ours.encode_images(arrays), theirs.encode_images(arrays)),
    ):
        assert cosines.min() > 1 - 1e-3
    for text in texts:
        assert _cosines(ours.encode_texts([text]), theirs.encode_texts([text])).min() > 1 - 1e-3


def test_an_onnx_folder_contains_graphs_but_no_weights(
    model: LesionModel, trained_folder: Path, tmp_path: Path
) -> None:
    folder = export.export_model(model, models_dir=tmp_path, name="trained", runtime="onnx")
    manifest = _manifest(folder)
    assert manifest.kind == "onnx"
    assert manifest.model_id == _manifest(trained_folder).model_id
    assert {path.suffix for path in folder.iterdir()} == {".onnx", ".json", ".txt"}
    assert _encoder(folder, "onnx").encode_texts(TEXTS).shape == (3, 128)


def test_the_manifest_of_the_lite_folder(lite_folder: Path) -> None:
    manifest = _manifest(lite_folder)
    assert (manifest.name, manifest.aligned) == ("lite", False)
    assert (manifest.image_dim, manifest.text_dim) == (1280, 384)
    assert not (lite_folder / "heads.safetensors").exists()


def test_the_manifest_of_a_trained_folder(model: LesionModel, tmp_path: Path) -> None:
    folder = export.export_model(model, models_dir=tmp_path, name="demo-1", synthetic=True, runtime="openclip")
    manifest = _manifest(folder)
    assert folder == tmp_path / "demo-1"
    assert (manifest.name, manifest.aligned, manifest.synthetic_data) == ("demo-1", True, True)
    assert (manifest.image_dim, manifest.text_dim) == (128, 128)
    assert manifest.classes == ["nevus", "melanoma"]
    assert manifest.preprocessing.image_size == 64


def test_a_model_trained_without_notes_is_not_aligned(tmp_path: Path) -> None:
    model = build_model(TrainConfig(image_size=32), classes=("a", "b"), with_notes=False)
    folder = export.export_model(model, models_dir=tmp_path, name="image-only", runtime="openclip")
    manifest = _manifest(folder)
    assert (manifest.aligned, manifest.image_dim, manifest.text_dim) == (False, 128, 384)
    heads = load_file(folder / "heads.safetensors")
    assert torch.equal(heads["text.weight"], torch.eye(384))


def test_the_manifest_lists_the_hash_of_every_file(lite_folder: Path) -> None:
    files = _manifest(lite_folder).files
    assert set(files) == {path.name for path in lite_folder.iterdir()} - {MANIFEST_NAME}
    assert {"tokenizer.json", "config.json", "open_clip_config.json", "open_clip_model.safetensors"} <= set(files)
    assert {"image.onnx", "text.onnx"} <= set(files)
    for name, digest in files.items():
        assert hashlib.sha256((lite_folder / name).read_bytes()).hexdigest() == digest


def test_the_model_id_depends_on_the_weights(model: LesionModel, tmp_path: Path) -> None:
    def model_id() -> str:
        return _manifest(export.export_model(model, models_dir=tmp_path, name="m", runtime="openclip")).model_id

    first = model_id()
    assert first == model_id()
    assert first.startswith("m-")
    assert len(first) == len("m-") + 12
    with torch.no_grad():
        model.head.image.bias[0] += 1
    assert model_id() != first


def test_the_model_id_depends_on_the_image_size(lite_folder: Path, tmp_path: Path) -> None:
    small = export.export_lite(tmp_path, image_size=64, runtime="openclip")
    assert (
        _manifest(small).files["open_clip_model.safetensors"]
        == (_manifest(lite_folder).files["open_clip_model.safetensors"])
    )
    assert _manifest(small).model_id != _manifest(lite_folder).model_id


def test_a_failed_export_keeps_the_old_folder(
    model: LesionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export.export_model(model, models_dir=tmp_path, name="m", runtime="openclip")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        model.head.image.bias[0] += 1

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.shutil, "copyfile", disk_full)
    with pytest.raises(OSError, match="No space left"):
        export.export_model(model, models_dir=tmp_path, name="m", runtime="openclip")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_two_linear_layers_fold_into_one() -> None:
    first, second = nn.Linear(7, 5), nn.Linear(5, 3)
    inputs = torch.randn(4, 7)
    torch.testing.assert_close(export.fold_linear(first, second)(inputs), second(first(inputs)))
