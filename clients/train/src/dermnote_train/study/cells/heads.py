"""Trains the heads of one cell of the frozen grid on given features, with several hyperparameters (candidates).

Selection uses home validation data only: for each criterion, the epoch and candidate with the lowest loss are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from dermnote_train.config import LossWeights
from dermnote_train.models.model import BranchOutput, SharedHead
from dermnote_train.study.prompts import prompt_logits
from dermnote_train.training.losses import image_loss, image_text_loss

Input = Literal["image", "note", "both", "prompts"]
"""The input of a classification. "prompts": the image, classified by class prompts (prompts.py)."""
INPUTS: tuple[Input, ...] = ("image", "note", "both", "prompts")
Criterion = Literal["image", "note", "both", "prompts", "retrieval"]
"""Criteria by which weights are selected."""


class Candidate(NamedTuple):
    """One choice of hyperparameters: Adam's `head_lr` and `weight_decay`, and the loss weights of arms with text.

    Its repr is part of the cells' digests, so names and order of the fields must not change.
    """

    head_lr: float
    weight_decay: float
    losses: LossWeights = LossWeights()


RATES = (1e-4, 3e-4)
ALIGNED_LESS = LossWeights(cosine=0.2, l1=0.2, nt_xent=0.1)
FUSED = ALIGNED_LESS.model_copy(update={"fused_ce": 1.0})
IMAGE_CANDIDATES = tuple(Candidate(rate, decay) for rate in RATES for decay in (1e-5, 1e-3, 1e-2))
TEXT_CANDIDATES = tuple(
    Candidate(rate, 1e-3, losses) for rate in RATES for losses in (LossWeights(), ALIGNED_LESS, FUSED)
)
"""As many candidates as for images alone, so that every arm has the same budget."""


@dataclass(frozen=True)
class TrainingData:
    """Training data. views: [n, v, d]; text: [k, n, t], one of k drawn per image and step, or None; labels: [n]."""

    views: Tensor
    text: Tensor | None
    labels: Tensor


@dataclass(frozen=True)
class EvaluationData:
    """Validation or test data. image: [n, d]; note: [n, t] of the test-time notes, or None; labels, groups: [n];
    own_text: [n, t] of the arm's training notes, which may name the class, or None; prompts: [classes, k, t] or None.
    """

    image: Tensor
    note: Tensor | None
    labels: Tensor
    groups: Tensor
    own_text: Tensor | None = None
    prompts: Tensor | None = None


@dataclass(frozen=True)
class Schedule:
    """The training budget of each candidate."""

    epochs: int
    patience: int
    batch_size: int


@dataclass
class BestWeights:
    """The best weights for one criterion. `loss`: on validation data; `epoch` from 1; `candidate`: its index."""

    loss: float
    epoch: int
    candidate: int
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainedHeads:
    """The result of a cell's training: by criterion, the best weights and each candidate's lowest validation loss."""

    head: SharedHead
    best: Mapping[Criterion, BestWeights]
    losses: Mapping[Criterion, tuple[float, ...]]

    def outputs(self, data: EvaluationData, *, by: Criterion) -> tuple[BranchOutput, BranchOutput | None]:
        """Outputs of the image branch and, given `data.note`, of the text branch, with the weights selected by `by`."""
        self.load(by)
        return _outputs(self.head, data)

    @torch.no_grad()
    def logits(self, data: EvaluationData, *, by: Input) -> Tensor:
        """Logits [n, classes] from one input, with the weights selected by it. "both": the mean of the branches."""
        self.load(by)
        if by == "prompts":
            return _prompt_logits(self.head, data)
        image, note = _outputs(self.head, data)
        if note is None or by == "image":
            return image.logits
        return note.logits if by == "note" else (image.logits + note.logits) / 2

    def load(self, by: Criterion) -> None:
        """Load the weights selected by a criterion into the head."""
        self.head.load_state_dict(dict(self.best[by].weights))


@dataclass
class _Selection:
    """The best weights so far, by criterion. `improved_at`: the last epoch in which the current candidate improved."""

    best: dict[Criterion, BestWeights] = field(default_factory=dict)
    losses: dict[Criterion, list[float]] = field(default_factory=dict)
    improved_at: dict[Criterion, int] = field(default_factory=dict)

    def start_candidate(self) -> None:
        """Start with the next candidate."""
        self.improved_at = {}
        for own in self.losses.values():
            own.append(float("inf"))

    def record(
        self, head: SharedHead, losses: Mapping[Criterion, float], *, epoch: int, candidate: int, patience: int
    ) -> bool:
        """Record an epoch; returns whether any criterion has patience left.

        Patience is counted for each criterion separately; otherwise, arms with more inputs would select from more
        epochs.
        """
        active = [by for by in losses if epoch - self.improved_at.get(by, 0) <= patience]
        for by in active:
            loss = losses[by]
            own = self.losses.setdefault(by, [float("inf")])
            if loss < own[candidate]:
                own[candidate], self.improved_at[by] = loss, epoch
            if by not in self.best or loss < self.best[by].loss:
                weights = {name: tensor.clone() for name, tensor in head.state_dict().items()}
                self.best[by] = BestWeights(loss, epoch, candidate, weights)
        return any(epoch - self.improved_at.get(by, 0) < patience for by in active)


def train_heads(
    data: TrainingData,
    validation: EvaluationData,
    *,
    candidates: Sequence[Candidate],
    schedule: Schedule,
    classes: int,
    seed: int,
) -> TrainedHeads:
    """Train every candidate from the same initial weights and select on `validation`.

    Deterministic for the same data, seed and number of threads.
    """
    selection = _Selection()
    head = _initial_head(data, classes=classes, seed=seed)
    for number, candidate in enumerate(candidates):
        head = _initial_head(data, classes=classes, seed=seed)
        optimiser = Adam(head.parameters(), lr=candidate.head_lr, weight_decay=candidate.weight_decay, amsgrad=True)
        generator = torch.Generator().manual_seed(seed)
        selection.start_candidate()
        for epoch in range(1, schedule.epochs + 1):
            _train_epoch(
                head, data, losses=candidate.losses, optimiser=optimiser, generator=generator, size=schedule.batch_size
            )
            losses = validation_losses(head, validation)
            if not selection.record(head, losses, epoch=epoch, candidate=number, patience=schedule.patience):
                break
    return TrainedHeads(head, selection.best, {by: tuple(losses) for by, losses in selection.losses.items()})


def _initial_head(data: TrainingData, *, classes: int, seed: int) -> SharedHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = 1 if data.text is None else data.text.shape[-1]
        return SharedHead(image_features=data.views.shape[-1], text_features=width, classes=classes)


def _train_epoch(
    head: SharedHead,
    data: TrainingData,
    *,
    losses: LossWeights,
    optimiser: Adam,
    generator: torch.Generator,
    size: int,
) -> None:
    """One epoch of class-balanced batches of `size`; each image with a random view and a random one of its texts."""
    weights = (1 / torch.bincount(data.labels).double())[data.labels]
    rows = torch.multinomial(weights, len(data.labels), replacement=True, generator=generator)
    for batch in torch.split(rows, size):
        view = torch.randint(data.views.shape[1], (len(batch),), generator=generator)
        image, labels = head.image_branch(data.views[batch, view]), data.labels[batch]
        if data.text is None:
            terms = image_loss(image, labels)
        else:
            text_set = torch.randint(len(data.text), (len(batch),), generator=generator)
            text = head.text_branch(data.text[text_set, batch])
            terms = image_text_loss(image, text, labels, weights=losses)
        optimiser.zero_grad()
        terms.total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@torch.no_grad()
def _outputs(head: SharedHead, data: EvaluationData) -> tuple[BranchOutput, BranchOutput | None]:
    return head.image_branch(data.image), None if data.note is None else head.text_branch(data.note)


def _prompt_logits(head: SharedHead, data: EvaluationData) -> Tensor:
    assert data.prompts is not None  # noqa: S101 (checked by the callers)
    return prompt_logits(head.image_branch(data.image).embedding, head.text_branch(data.prompts).embedding)


@torch.no_grad()
def validation_losses(head: SharedHead, data: EvaluationData) -> dict[Criterion, float]:
    """The loss of each criterion: class-balanced cross-entropy; for retrieval, 1 minus the mAP of image to note."""
    image, note = _outputs(head, data)
    losses: dict[Criterion, float] = {"image": _balanced_ce(image.logits, data.labels)}
    if note is not None:
        losses["note"] = _balanced_ce(note.logits, data.labels)
        losses["both"] = _balanced_ce((image.logits + note.logits) / 2, data.labels)
        losses["retrieval"] = 1 - _mean_average_precision(image.embedding, note.embedding, data)
    if data.prompts is not None:
        losses["prompts"] = _balanced_ce(_prompt_logits(head, data), data.labels)
    return losses


def _balanced_ce(logits: Tensor, labels: Tensor) -> float:
    each = functional.cross_entropy(logits, labels, reduction="none")
    return float(torch.stack([each[labels == name].mean() for name in torch.unique(labels)]).mean())


def _mean_average_precision(image: Tensor, note: Tensor, data: EvaluationData) -> float:
    """mAP as in metrics.class_level, but in torch and without its random order of ties; it runs after every epoch."""
    cosines = functional.normalize(image, dim=1) @ functional.normalize(note, dim=1).T
    other = data.groups[:, None] != data.groups[None, :]
    order = cosines.masked_fill(~other, -2.0).argsort(dim=1, descending=True)
    relevant = ((data.labels[:, None] == data.labels[None, :]) & other).gather(1, order).float()
    ranks = torch.arange(1, relevant.shape[1] + 1)
    average = (relevant * relevant.cumsum(dim=1) / ranks).sum(dim=1) / relevant.sum(dim=1).clamp(min=1)
    return float(average[relevant.sum(dim=1) > 0].mean())
