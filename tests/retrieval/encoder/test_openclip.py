"""The open_clip encoder from a real, tiny model folder, against direct calls of open_clip and torchvision."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from open_clip.model import CustomTextCLIP
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from dermnote_contracts.manifest import Preprocessing
from dermnote_contracts.problems import ModelRefused, StartRefused, UnknownModel
from dermnote_retrieval.encoder.base import fit, preprocess
from dermnote_retrieval.encoder.model_folders import FolderModels
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings
from tests.retrieval import graphs

SIZE, DIM = 64, 24
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "lesion", "of", "the", "back", "##s", "."]
HOW = Preprocessing(image_size=SIZE, mean=(0.48, 0.45, 0.4), std=(0.27, 0.26, 0.28))


def model_cfg() -> dict[str, Any]:
    return {
        "embed_dim": 32,
        "vision_cfg": {
            "timm_model_name": "test_efficientnet",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "none",
            "image_size": SIZE,
        },
        "text_cfg": {
            "hf_model_name": ".",
            "hf_tokenizer_name": ".",
            "hf_model_pretrained": False,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": None,
            "context_length": 16,
        },
    }


def write_tokenizer(folder: Path) -> None:
    vocabulary = {word: n for n, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def tiny_model(folder: Path) -> CustomTextCLIP:
    torch.manual_seed(3)
    config = model_cfg()
    config["vision_cfg"]["timm_pool"] = "avg"
    config["text_cfg"]["hf_model_name"] = str(folder)
    return CustomTextCLIP(**config).eval()


def write_manifest(folder: Path, **changes: Any) -> None:
    given = {"kind": "openclip", "model_id": "tiny-1", "image_dim": DIM, "text_dim": DIM, "preprocessing": HOW}
    graphs.write_manifest(folder, **(given | changes))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder `tiny` with heads, as the training client would export it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        pad_token_id=0,
    ).save_pretrained(folder)
    write_tokenizer(folder)
    config = model_cfg()
    config["vision_cfg"]["timm_pool"] = "avg"
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = tiny_model(folder)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    features = timm.create_model("test_efficientnet", num_classes=0).num_features
    heads = {
        "image.weight": torch.randn(DIM, features),
        "image.bias": torch.randn(DIM),
        "text.weight": torch.randn(DIM, 32),
    }
    save_file(heads, folder / "heads.safetensors")
    write_manifest(folder)
    return folder


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Callable[..., FolderModels]:
    """A copy of the folder with a change to its files; its manifest is rewritten by default."""

    def copied(
        change: Callable[[Path], None] = lambda _: None, *, remake: bool = True, **manifest: Any
    ) -> FolderModels:
        folder = tmp_path / "models/tiny"
        shutil.copytree(tiny, folder)
        change(folder)
        if remake:
            write_manifest(folder, **manifest)
        return FolderModels(tmp_path / "models", threads=2)

    return copied


def photographs() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    sizes = [(64, 64), (100, 70), (70, 101), (33, 90), (512, 384)]
    return [Image.fromarray(draw.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_equals_torchvisions_bit_by_bit(interpolation: Any) -> None:
    how = HOW.model_copy(update={"interpolation": interpolation})
    reference = image_transform(
        SIZE, is_train=False, mean=how.mean, std=how.std, interpolation=interpolation, resize_mode="shortest"
    )

    for image in photographs():
        assert np.abs(preprocess(image, how) - reference(image).numpy()).max() < 1e-6


def test_an_already_fitted_image_gives_the_same_pixels() -> None:
    for image in photographs():
        fitted = fit(image, HOW)
        assert fitted.size == (SIZE, SIZE)
        assert np.array_equal(preprocess(fitted, HOW), preprocess(image, HOW))


def test_image_vectors_equal_open_clips_with_the_head(tiny: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    encoder = FolderModels(tiny.parent, threads=2).load("tiny")
    heads = load_file(tiny / "heads.safetensors")
    pixels = torch.stack([torch.from_numpy(preprocess(image, HOW)) for image in photographs()])
    with torch.inference_mode():
        features = tiny_model(tiny).encode_image(pixels)
        expected = torch.nn.functional.normalize(features @ heads["image.weight"].T + heads["image.bias"], dim=1)

    assert np.abs(encoder.encode_images(photographs()) - expected.numpy()).max() < 1e-5


def test_text_vectors_are_independent_of_the_batch(tiny: Path) -> None:
    encoder = FolderModels(tiny.parent, threads=2).load("tiny")
    texts = ["red", "a blue lesion of the back .", "", "unheard words", "a " * 50]
    together = encoder.encode_texts(texts)

    assert together.shape == (5, DIM)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for text, row in zip(texts, together, strict=True):
        assert np.abs(encoder.encode_texts([text])[0] - row).max() < 1e-5


def test_texts_are_truncated_to_the_manifests_length(tiny: Path) -> None:
    encoder = FolderModels(tiny.parent, threads=2).load("tiny")
    ten = " ".join(["red", "blue"] * 5)  # with [CLS] and [SEP] 12 tokens, the most there can be

    assert np.array_equal(encoder.encode_texts([ten]), encoder.encode_texts([f"{ten} lesion back"]))
    assert not np.allclose(encoder.encode_texts([ten]), encoder.encode_texts([ten.removesuffix(" blue")]), atol=1e-4)


def test_the_service_serves_a_model_folder(serve: Any, tiny: Path, put: Any) -> None:
    client = serve(encoder="openclip", models_dir=tiny.parent, model="tiny")
    out = Path(tiny.parent / "photo.png")
    photographs()[1].save(out)
    put(client, "photo", image=out.read_bytes(), note="a red lesion")
    put(client, "note", note="a blue lesion of the back")

    hits = client.post("/search", files={"image": out.read_bytes()}, data={"via": "images"}).json()["hits"]
    assert (hits[0]["id"], hits[0]["score"] > 0.99) == ("photo", True)
    body = client.post("/search", json={"text": "a blue lesion of the back", "via": "notes"}).json()
    assert (body["hits"][0]["id"], body["model"]) == ("note", "tiny-1")


def put_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "open_clip_config.json"
        config = json.loads(path.read_text())
        for part, values in changes.items():
            config["model_cfg"][part] |= values
        path.write_text(json.dumps(config))

    return change


def append(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b" ") and None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a changed file": ({"change": append("open_clip_model.safetensors"), "remake": False}, "sha256 mismatch"),
    "a missing file": ({"change": lambda f: (f / "heads.safetensors").unlink(), "remake": False}, "cannot be read"),
    "an unlisted tokenizer": ({"change": lambda f: (f / "tokenizer.json").unlink()}, "does not list tokenizer.json"),
    "no JSON": ({"change": lambda f: f.joinpath("manifest.json").write_text("{"), "remake": False}, "manifest.json"),
    "another name": ({"name": "other"}, "a model named other"),
    "other widths": ({"image_dim": 7}, "the model's vectors have 24 and 24 values"),
    "a file outside": (
        {
            "files": dict.fromkeys(
                (
                    "open_clip_config.json",
                    "open_clip_model.safetensors",
                    "tokenizer.json",
                    "config.json",
                    "../x",
                ),
                "0",
            )
        },
        "sha256 mismatch|outside",
    ),
    "weights of another shape": ({"change": put_config(vision_cfg={"timm_model_name": "test_vit"})}, "tiny: "),
    "an unknown architecture": ({"change": put_config(vision_cfg={"timm_model_name": "nonsense"})}, "tiny: "),
    "weights from a hub": ({"change": put_config(vision_cfg={"timm_model_name": "hf-hub:a/b"})}, "vision_cfg"),
    "a text tower from a hub": ({"change": put_config(text_cfg={"hf_model_name": "a/b"})}, "text_cfg"),
    "broken safetensors": ({"change": lambda f: (f / "open_clip_model.safetensors").write_bytes(b"x")}, "tiny: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_incomplete_folder_is_rejected_with_one_line(changed: Callable[..., FolderModels], name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ModelRefused, match=message) as refused:
        changed(**options).load("tiny")

    assert "\n" not in refused.value.detail


def test_invalid_folders_are_not_listed(changed: Callable[..., FolderModels], tmp_path: Path) -> None:
    source = changed()
    (tmp_path / "models/broken").mkdir()
    (tmp_path / "models/broken/manifest.json").write_text("[]")

    assert [manifest.name for manifest in source.manifests()] == ["tiny"]


@pytest.mark.parametrize("name", ["..", ".", "nobody", "tiny/../tiny"])
def test_models_are_found_by_name_only(tiny: Path, name: str) -> None:
    with pytest.raises(UnknownModel):
        FolderModels(tiny.parent, threads=2).load(name)


def test_a_missing_lite_model_says_how_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"dermnote export lite --models-dir .*models"):
        open_service(Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models"))
