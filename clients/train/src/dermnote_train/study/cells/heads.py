"""One cell of the frozen grid: heads on given features, candidates compared on home validation data only.

For each test-time input apart, the epoch and candidate with the least validation loss by that input are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from dermnote_train.config import LossWeights
from dermnote_train.models.model import Branch, SharedHead
from dermnote_train.study.prompts import prompt_logits
from dermnote_train.training.losses import image_loss, image_text_loss

Input = Literal["image", "note", "both", "prompts"]
"""What a class is told from. "prompts": the picture, and the class prompt that lies nearest (prompts.py)."""
INPUTS: tuple[Input, ...] = ("image", "note", "both", "prompts")
Chosen = Literal["image", "note", "both", "prompts", "retrieval"]


class Candidate(NamedTuple):
    """Settings that validation data chooses among. `head_lr`, `weight_decay` of Adam; `losses` where there is text."""

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
"""As many as pictures alone get: the same budget for every arm."""


@dataclass(frozen=True)
class Seen:
    """Training data. views: [n, v, d]; text: [k, n, t], one of k drawn for a picture and step, or None; labels [n]."""

    views: Tensor
    text: Tensor | None
    labels: Tensor


@dataclass(frozen=True)
class HeldOut:
    """Validation or test data. image: [n, d]; note: [n, t] of what is read at test time, or None; own_text: [n, t] of
    the arm's own notes, which may name the class, or None; labels [n]; groups [n] as numbers; prompts: [classes, k, t]
    of the class prompts, or None."""

    image: Tensor
    note: Tensor | None
    labels: Tensor
    groups: Tensor
    own_text: Tensor | None = None
    prompts: Tensor | None = None


@dataclass(frozen=True)
class Schedule:
    """How long each candidate may learn."""

    epochs: int
    patience: int
    batch_size: int


@dataclass
class Kept:
    """The best weights so far for one input. `loss`: on validation data; `epoch` from 1; `candidate` by its place."""

    loss: float
    epoch: int
    candidate: int
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """What a cell's training came to, by input: what was kept, and the least validation loss of every candidate."""

    head: SharedHead
    kept: Mapping[Chosen, Kept]
    losses: Mapping[Chosen, tuple[float, ...]]

    def outputs(self, held_out: HeldOut, *, by: Chosen) -> tuple[Branch, Branch | None]:
        """The image branch and the text branch (of `note`), with the weights that were kept for `by`."""
        self._put_in(by)
        return _outputs(self.head, held_out)

    @torch.no_grad()
    def logits(self, held_out: HeldOut, *, by: Input) -> Tensor:
        """Logits [n, classes] from one input, with the weights that were kept for it. "both": the branches' mean."""
        self._put_in(by)
        if by == "prompts":
            return _prompt_logits(self.head, held_out)
        image, note = _outputs(self.head, held_out)
        if note is None or by == "image":
            return image.logits
        return note.logits if by == "note" else (image.logits + note.logits) / 2

    def _put_in(self, by: Chosen) -> None:
        self.head.load_state_dict(dict(self.kept[by].weights))


@dataclass
class _Keeper:
    kept: dict[Chosen, Kept] = field(default_factory=dict)
    losses: dict[Chosen, list[float]] = field(default_factory=dict)

    better: dict[Chosen, int] = field(default_factory=dict)

    def begin(self) -> None:
        """The next candidate's turn."""
        self.better = {}
        for own in self.losses.values():
            own.append(float("inf"))

    def look(
        self, head: SharedHead, losses: Mapping[Chosen, float], *, epoch: int, candidate: int, patience: int
    ) -> bool:
        """Take note of an epoch; returns whether the candidate may go on by any input.

        Each input runs out of patience by itself, so that an arm with more inputs has no more epochs to choose from.
        """
        open_ = [by for by in losses if epoch - self.better.get(by, 0) <= patience]
        for by in open_:
            loss = losses[by]
            own = self.losses.setdefault(by, [float("inf")])
            if loss < own[candidate]:
                own[candidate], self.better[by] = loss, epoch
            if by not in self.kept or loss < self.kept[by].loss:
                weights = {name: tensor.clone() for name, tensor in head.state_dict().items()}
                self.kept[by] = Kept(loss, epoch, candidate, weights)
        return any(epoch - self.better.get(by, 0) < patience for by in open_)


def train_heads(
    seen: Seen,
    validation: HeldOut,
    *,
    candidates: Sequence[Candidate],
    schedule: Schedule,
    classes: int,
    seed: int,
) -> Trained:
    """Train every candidate from the same start; keep the best by each input on `validation`.

    The same for the same data, seed and number of threads.
    """
    keeper = _Keeper()
    head = _fresh(seen, classes=classes, seed=seed)
    for number, candidate in enumerate(candidates):
        head = _fresh(seen, classes=classes, seed=seed)
        _train(head, seen, validation, candidate=candidate, number=number, schedule=schedule, keeper=keeper, seed=seed)
    return Trained(head, keeper.kept, {by: tuple(losses) for by, losses in keeper.losses.items()})


def _fresh(seen: Seen, *, classes: int, seed: int) -> SharedHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = 1 if seen.text is None else seen.text.shape[-1]
        return SharedHead(image_features=seen.views.shape[-1], text_features=width, classes=classes)


def _train(
    head: SharedHead,
    seen: Seen,
    validation: HeldOut,
    *,
    candidate: Candidate,
    number: int,
    schedule: Schedule,
    keeper: _Keeper,
    seed: int,
) -> None:
    optimiser = Adam(head.parameters(), lr=candidate.head_lr, weight_decay=candidate.weight_decay, amsgrad=True)
    generator = torch.Generator().manual_seed(seed)
    chances = (1 / torch.bincount(seen.labels).double())[seen.labels]
    keeper.begin()
    for epoch in range(1, schedule.epochs + 1):
        drawn = torch.multinomial(chances, len(seen.labels), replacement=True, generator=generator)
        for batch in torch.split(drawn, schedule.batch_size):
            _step(head, seen, batch, candidate=candidate, optimiser=optimiser, generator=generator)
        losses = validation_losses(head, validation)
        if not keeper.look(head, losses, epoch=epoch, candidate=number, patience=schedule.patience):
            return


def _step(
    head: SharedHead,
    seen: Seen,
    batch: Tensor,
    *,
    candidate: Candidate,
    optimiser: Adam,
    generator: torch.Generator,
) -> None:
    view = torch.randint(seen.views.shape[1], (len(batch),), generator=generator)
    image, labels = head.of_image(seen.views[batch, view]), seen.labels[batch]
    if seen.text is None:
        terms = image_loss(image, labels)
    else:
        which = torch.randint(len(seen.text), (len(batch),), generator=generator)
        terms = image_text_loss(image, head.of_text(seen.text[which, batch]), labels, weights=candidate.losses)
    optimiser.zero_grad()
    terms.total.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


@torch.no_grad()
def _outputs(head: SharedHead, held_out: HeldOut) -> tuple[Branch, Branch | None]:
    return head.of_image(held_out.image), None if held_out.note is None else head.of_text(held_out.note)


def _prompt_logits(head: SharedHead, held_out: HeldOut) -> Tensor:
    assert held_out.prompts is not None  # noqa: S101 (asked for by the caller)
    return prompt_logits(head.of_image(held_out.image).embedding, head.of_text(held_out.prompts).embedding)


@torch.no_grad()
def validation_losses(head: SharedHead, held_out: HeldOut) -> dict[Chosen, float]:
    """By each input: cross-entropy, every class weighing the same; for retrieval 1 - mAP of picture to note."""
    image, note = _outputs(head, held_out)
    losses: dict[Chosen, float] = {"image": _balanced_ce(image.logits, held_out.labels)}
    if note is not None:
        losses["note"] = _balanced_ce(note.logits, held_out.labels)
        losses["both"] = _balanced_ce((image.logits + note.logits) / 2, held_out.labels)
        losses["retrieval"] = 1 - _mean_average_precision(image.embedding, note.embedding, held_out)
    if held_out.prompts is not None:
        losses["prompts"] = _balanced_ce(_prompt_logits(head, held_out), held_out.labels)
    return losses


def _balanced_ce(logits: Tensor, labels: Tensor) -> float:
    each = functional.cross_entropy(logits, labels, reduction="none")
    return float(torch.stack([each[labels == name].mean() for name in torch.unique(labels)]).mean())


def _mean_average_precision(image: Tensor, note: Tensor, held_out: HeldOut) -> float:
    """As metrics.class_level has it, but for how ties are ordered: this one runs after every epoch of a few seconds."""
    cosines = functional.normalize(image, dim=1) @ functional.normalize(note, dim=1).T
    other = held_out.groups[:, None] != held_out.groups[None, :]
    order = cosines.masked_fill(~other, -2.0).argsort(dim=1, descending=True)
    relevant = ((held_out.labels[:, None] == held_out.labels[None, :]) & other).gather(1, order).float()
    ranks = torch.arange(1, relevant.shape[1] + 1)
    found = (relevant * relevant.cumsum(dim=1) / ranks).sum(dim=1) / relevant.sum(dim=1).clamp(min=1)
    return float(found[relevant.sum(dim=1) > 0].mean())
