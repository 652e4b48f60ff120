"""Every loss term against values computed by hand or by a slow loop."""

import math

import pytest
import torch
from torch import Tensor

from dermnote_train.config import LossWeights
from dermnote_train.models.model import BranchOutput
from dermnote_train.training import losses

LABELS = torch.tensor([0, 1, 0, 2, 1])


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)


def _cosine(one: Tensor, other: Tensor) -> float:
    dot = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(float(a) ** 2 for a in one)) / math.sqrt(sum(float(b) ** 2 for b in other))


def _slow_nt_xent(image: Tensor, text: Tensor, labels: Tensor, temperature: float) -> float:
    positives, negatives = [], []
    for i in range(len(labels)):
        for j in range(len(labels)):
            probability = 1 / (1 + math.exp(-_cosine(image[i], text[j]) / temperature))
            if i == j:
                positives.append(-math.log(probability))
            elif labels[i] != labels[j]:
                negatives.append(-math.log(1 - probability))
    return sum(positives) / len(positives) + sum(negatives) / len(negatives)


def _slow_info_nce(image: Tensor, text: Tensor, labels: Tensor, temperature: float) -> float:
    def one_way(queries: Tensor, answers: Tensor) -> float:
        total = 0.0
        for i in range(len(labels)):
            rivals = [j for j in range(len(labels)) if j == i or labels[j] != labels[i]]
            scores = {j: math.exp(_cosine(queries[i], answers[j]) / temperature) for j in rivals}
            total -= math.log(scores[i] / sum(scores.values()))
        return total / len(labels)

    return (one_way(image, text) + one_way(text, image)) / 2


def test_nt_xent_equals_the_slow_loop(pairs: tuple[Tensor, Tensor]) -> None:
    loss = losses.supervised_nt_xent(*pairs, LABELS, temperature=0.5)
    assert loss.item() == pytest.approx(_slow_nt_xent(*pairs, LABELS, 0.5), rel=1e-5)


def test_nt_xent_by_hand() -> None:
    # Pairs are parallel (cos 1), the two classes orthogonal (cos 0): softplus(-1/t) + softplus(0).
    vectors = torch.eye(2)
    loss = losses.supervised_nt_xent(vectors, vectors, torch.tensor([0, 1]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)) + math.log(2), rel=1e-6)


def test_nt_xent_of_one_class_has_no_negatives_and_is_finite(pairs: tuple[Tensor, Tensor]) -> None:
    image, text = (part.clone().requires_grad_() for part in pairs)
    loss = losses.supervised_nt_xent(image, text, torch.zeros(5, dtype=torch.int64), temperature=0.07)
    loss.backward()
    own = [math.log1p(math.exp(-_cosine(one, other) / 0.07)) for one, other in zip(*pairs, strict=True)]
    assert loss.item() == pytest.approx(sum(own) / 5, rel=1e-4)
    assert torch.isfinite(image.grad).all()


def test_pairs_of_one_class_do_not_repel(pairs: tuple[Tensor, Tensor]) -> None:
    # The texts of samples 0 and 2 (same class) do not contribute to each other's gradient.
    image, text = pairs
    text = text.clone().requires_grad_()
    row = losses.supervised_nt_xent(image[[0, 2]], text[[0, 2]], torch.tensor([0, 0]), temperature=0.07)
    alone = losses.supervised_nt_xent(image[[0]], text[[0]], torch.tensor([0]), temperature=0.07)
    (together,), (single,) = (torch.autograd.grad(loss, text, retain_graph=True) for loss in (row, alone))
    torch.testing.assert_close(together[0] * 2, single[0])


def test_info_nce_equals_the_slow_loop(pairs: tuple[Tensor, Tensor]) -> None:
    loss = losses.supervised_info_nce(*pairs, LABELS, temperature=0.5)
    assert loss.item() == pytest.approx(_slow_info_nce(*pairs, LABELS, 0.5), rel=1e-5)


def test_cosine_distance_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    text = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    assert losses.cosine_distance(image, text).item() == pytest.approx((0 + 1) / 2)


def _branches(pairs: tuple[Tensor, Tensor]) -> tuple[BranchOutput, BranchOutput]:
    image, text = pairs
    return BranchOutput(embedding=image, logits=image[:, :3]), BranchOutput(embedding=text, logits=text[:, :3])


def test_the_total_is_the_weighted_sum_of_the_paper(pairs: tuple[Tensor, Tensor]) -> None:
    terms = losses.image_text_loss(*_branches(pairs), LABELS, weights=LossWeights())
    expected = terms.image_ce + terms.text_ce + terms.cosine + terms.l1 + 0.5 * terms.nt_xent
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms.info_nce.item() == 0
    assert min(terms.image_ce, terms.text_ce, terms.cosine, terms.l1, terms.nt_xent) > 0
    assert terms.l1.item() == pytest.approx((pairs[0] - pairs[1]).abs().mean().item(), rel=1e-6)


def test_info_nce_replaces_nt_xent(pairs: tuple[Tensor, Tensor]) -> None:
    terms = losses.image_text_loss(*_branches(pairs), LABELS, weights=LossWeights(nt_xent=0, info_nce=0.25))
    expected = terms.image_ce + terms.text_ce + terms.cosine + terms.l1 + 0.25 * terms.info_nce
    assert terms.nt_xent.item() == 0
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_images_alone_use_only_their_cross_entropy(pairs: tuple[Tensor, Tensor]) -> None:
    image, _ = _branches(pairs)
    terms = losses.image_loss(image, LABELS)
    by_hand = -torch.log_softmax(image.logits, dim=1)[torch.arange(5), LABELS].mean()
    assert terms.total.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert terms.text_ce.item() == terms.cosine.item() == terms.nt_xent.item() == 0
