"""The loss terms of arXiv 2511.21827 as pure functions of embeddings, logits and labels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dermnote_train.config import LossWeights
from dermnote_train.models.model import BranchOutput


@dataclass(frozen=True)
class LossTerms:
    """The unweighted terms and their weighted sum, as scalar tensors; terms that are not used are 0."""

    image_ce: Tensor
    text_ce: Tensor
    cosine: Tensor
    l1: Tensor
    nt_xent: Tensor
    info_nce: Tensor
    fused_ce: Tensor
    total: Tensor


def image_text_loss(image: BranchOutput, text: BranchOutput, labels: Tensor, *, weights: LossWeights) -> LossTerms:
    """All terms for n image-text pairs. labels: int64 [n]. The contrastive and fused terms are skipped at weight 0."""
    pairs = (image.embedding, text.embedding)
    terms = {
        "image_ce": functional.cross_entropy(image.logits, labels),
        "text_ce": functional.cross_entropy(text.logits, labels),
        "fused_ce": functional.cross_entropy((image.logits + text.logits) / 2, labels) if weights.fused_ce else None,
        "cosine": cosine_distance(*pairs),
        "l1": functional.l1_loss(*pairs),
        "nt_xent": supervised_nt_xent(*pairs, labels, temperature=weights.temperature) if weights.nt_xent else None,
        "info_nce": supervised_info_nce(*pairs, labels, temperature=weights.temperature) if weights.info_nce else None,
    }
    return _weighted_sum(terms, weights=weights, zero=labels.new_zeros((), dtype=torch.float32))


def image_loss(image: BranchOutput, labels: Tensor) -> LossTerms:
    """Cross-entropy of the image branch alone (training without notes), with weight 1."""
    image_ce = functional.cross_entropy(image.logits, labels)
    return _weighted_sum({"image_ce": image_ce}, weights=LossWeights(), zero=torch.zeros_like(image_ce))


def cosine_distance(image: Tensor, text: Tensor) -> Tensor:
    """Mean of 1 - cosine over the pairs (PyTorch's CosineEmbeddingLoss, all pairs positive). Both [n, d]."""
    return functional.cosine_embedding_loss(image, text, image.new_ones(len(image)))


def supervised_nt_xent(image: Tensor, text: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Binary cross-entropy on cosine / temperature over image-text pairs. image, text: [n, d]; labels: [n].

    Positives: each image with its own text. Negatives: image and text of different classes. Other pairs of the same
    class are ignored. The loss is the mean over positives plus the mean over negatives (0 if there are none).
    """
    logits = _cosines(image, text) / temperature
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    other_class = labels[:, None] != labels[None, :]
    positive = functional.softplus(-logits[own]).mean()
    negative = functional.softplus(logits[other_class])
    return positive + (negative.mean() if negative.numel() else negative.sum())


def supervised_info_nce(image: Tensor, text: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE in both directions, with negatives of other classes only. image, text: [n, d]; labels: [n]."""
    logits = _cosines(image, text) / temperature
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    other_same_class = (labels[:, None] == labels[None, :]) & ~own
    logits = logits.masked_fill(other_same_class, -torch.inf)
    targets = torch.arange(len(labels), device=labels.device)
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


def _cosines(image: Tensor, text: Tensor) -> Tensor:
    return functional.normalize(image, dim=1) @ functional.normalize(text, dim=1).T


def _weighted_sum(terms: dict[str, Tensor | None], *, weights: LossWeights, zero: Tensor) -> LossTerms:
    used = {name: term for name, term in terms.items() if term is not None}
    total = sum((getattr(weights, name) * term for name, term in used.items()), start=zero)
    names = ("image_ce", "text_ce", "cosine", "l1", "nt_xent", "info_nce", "fused_ce")
    return LossTerms(**{name: used.get(name, zero) for name in names}, total=total)
