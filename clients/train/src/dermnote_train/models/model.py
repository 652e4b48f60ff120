"""The model of arXiv 2511.21827: two towers, a linear layer each, then a shared projection and a shared classifier."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dermnote_train.models.towers import Towers

EMBEDDING = 128


@dataclass(frozen=True)
class Branch:
    """What one branch gives for n inputs: `embedding` [n, 128] (not normalised) and `logits` [n, classes]."""

    embedding: Tensor
    logits: Tensor


class SharedHead(nn.Module):
    """Linear per branch, shared Linear 128 -> 128 (the embedding), shared classifier; no activation between."""

    def __init__(self, *, image_features: int, text_features: int, classes: int) -> None:
        super().__init__()
        self.image = nn.Linear(image_features, EMBEDDING)
        self.text = nn.Linear(text_features, EMBEDDING)
        self.shared = nn.Linear(EMBEDDING, EMBEDDING)
        self.classifier = nn.Linear(EMBEDDING, classes)

    def of_image(self, features: Tensor) -> Branch:
        """features [n, image_features]."""
        return self._branch(self.image(features))

    def of_text(self, features: Tensor) -> Branch:
        """features [n, text_features]."""
        return self._branch(self.text(features))

    def _branch(self, projected: Tensor) -> Branch:
        embedding = self.shared(projected)
        return Branch(embedding=embedding, logits=self.classifier(embedding))


class LesionModel(nn.Module):
    """Towers and head with the class names. `with_notes`: the text branch was trained, so both share one space."""

    def __init__(self, towers: Towers, *, classes: tuple[str, ...], with_notes: bool) -> None:
        super().__init__()
        self.towers = towers
        self.classes = classes
        self.with_notes = with_notes
        self.head = SharedHead(
            image_features=towers.image_features, text_features=towers.text_features, classes=len(classes)
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.shared.weight.device

    def forward(self, pixels: Tensor, text: Tensor | None) -> tuple[Branch, Branch | None]:
        """Both branches of n pairs, or the image branch alone. pixels: uint8 [n, 3, s, s]; text: [n, text_features]."""
        return self.of_pixels(pixels), None if text is None else self.of_text_features(text)

    def of_pixels(self, pixels: Tensor) -> Branch:
        """pixels: uint8 [n, 3, size, size], as images.py gives them."""
        return self.head.of_image(self.towers.image_features_of(pixels))

    def of_text_features(self, features: Tensor) -> Branch:
        """features [n, text_features], as features.py gives them."""
        return self.head.of_text(features)
