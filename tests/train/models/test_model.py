"""The head of the paper: shared layers, and the outputs of each branch."""

import torch

from dermnote_train.models.model import EMBEDDING, LesionModel, SharedHead
from dermnote_train.models.towers import Towers


def _head() -> SharedHead:
    torch.manual_seed(0)
    return SharedHead(image_features=20, text_features=12, classes=5)


def test_branches_return_embeddings_and_logits() -> None:
    head = _head()
    image, text = head.image_branch(torch.randn(7, 20)), head.text_branch(torch.randn(3, 12))
    assert image.embedding.shape == (7, EMBEDDING)
    assert image.logits.shape == (7, 5)
    assert text.embedding.shape == (3, EMBEDDING)
    assert text.logits.shape == (3, 5)


def test_there_is_no_activation_between_the_layers() -> None:
    head = _head()
    one, other = torch.randn(2, 1, 20)
    zero = head.image_branch(torch.zeros(1, 20))
    summed = head.image_branch(one + other)
    torch.testing.assert_close(
        summed.logits - zero.logits,
        head.image_branch(one).logits + head.image_branch(other).logits - 2 * zero.logits,
        atol=1e-5,
        rtol=1e-4,
    )


def test_projection_and_classifier_are_shared_by_the_branches() -> None:
    head = _head()
    head.text_branch(torch.randn(4, 12)).logits.sum().backward()
    assert head.shared.weight.grad is not None
    assert head.classifier.weight.grad is not None
    assert head.text.weight.grad is not None
    assert head.image.weight.grad is None


def test_the_whole_model_takes_bytes_and_text_features(lite_towers: Towers) -> None:
    model = LesionModel(lite_towers, classes=("a", "b", "c"), with_notes=True).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert model.image_branch(pixels).logits.shape == (2, 3)
        assert model.text_branch(torch.randn(4, 384)).logits.shape == (4, 3)
