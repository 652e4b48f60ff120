"""The model of arXiv 2511.21827: two towers, a linear layer each, then a shared projection and a shared classifier."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dermnote_train.models.towers import Towers

EMBEDDING = 128


@dataclass(frozen=True)
class BranchOutput:
    """Outputs of one branch for n inputs: `embedding` [n, 128] (not normalised) and `logits` [n, classes]."""

    embedding: Tensor
    logits: Tensor


class SharedHead(nn.Module):
    """A linear layer per branch, shared Linear 128 -> 128 (the embedding), shared classifier; no activations."""

    def __init__(self, *, image_features: int, text_features: int, classes: int) -> None:
        super().__init__()
        self.image = nn.Linear(image_features, EMBEDDING)
        self.text = nn.Linear(text_features, EMBEDDING)
        self.shared = nn.Linear(EMBEDDING, EMBEDDING)
        self.classifier = nn.Linear(EMBEDDING, classes)

    def image_branch(self, features: Tensor) -> BranchOutput:
        """features: [n, image_features]."""
        return self._output(self.image(features))

    def text_branch(self, features: Tensor) -> BranchOutput:
        """features: [n, text_features]."""
        return self._output(self.text(features))

    def _output(self, projected: Tensor) -> BranchOutput:
        embedding = self.shared(projected)
        return BranchOutput(embedding=embedding, logits=self.classifier(embedding))


class LesionModel(nn.Module):
    """Towers, head and class names. `with_notes`: the text branch was trained, so both branches share one space."""

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
        """The device of the weights."""
        return self.head.shared.weight.device

    def forward(self, pixels: Tensor, text: Tensor | None) -> tuple[BranchOutput, BranchOutput | None]:
        """Both branches for n pairs, or only the image branch. pixels: uint8 [n, 3, s, s]; text: [n, text_features]."""
        return self.image_branch(pixels), None if text is None else self.text_branch(text)

    def image_branch(self, pixels: Tensor) -> BranchOutput:
        """pixels: uint8 [n, 3, size, size], as decoded by images.py."""
        return self.head.image_branch(self.towers.encode_images(pixels))

    def text_branch(self, features: Tensor) -> BranchOutput:
        """features: [n, text_features], as computed by features.py."""
        return self.head.text_branch(features)
