"""Heads on given features: they learn, choose by validation alone, and controls sit at chance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dermnote_train.config import LossWeights
from dermnote_train.models.model import SharedHead
from dermnote_train.study.cells.heads import (
    IMAGE_CANDIDATES,
    TEXT_CANDIDATES,
    Candidate,
    HeldOut,
    Schedule,
    Seen,
    Trained,
    _Keeper,
    train_heads,
    validation_losses,
)

CLASSES, WIDTH, TEXT = 3, 12, 6
SCHEDULE = Schedule(epochs=12, patience=12, batch_size=16)
QUICK = (Candidate(3e-3, 1e-5), Candidate(1e-3, 1e-3, LossWeights(fused_ce=1.0)))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(
    n: int, *, seed: int, told: float = 1.0, noise: float = 0.6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, pictures and texts that both show the class; `told`: how far the text does."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    image = rng.normal(0, noise, (n, WIDTH)) + np.eye(WIDTH)[labels]
    text = rng.normal(0, noise, (n, TEXT)) + told * np.eye(TEXT)[labels]
    return torch.tensor(labels), torch.tensor(image).float(), torch.tensor(text).float()


def seen(n: int = 120, *, text: bool = True, shuffled: bool = False) -> Seen:
    labels, image, told = data(n, seed=0)
    if shuffled:
        labels = labels[torch.randperm(n, generator=torch.Generator().manual_seed(1))]
    return Seen(image[:, None].repeat(1, 2, 1), told[None] if text else None, labels)


def held_out(n: int = 90, *, seed: int = 5, text: bool = True, prompts: bool = False) -> HeldOut:
    labels, image, told = data(n, seed=seed)
    named = torch.eye(TEXT)[:CLASSES, None].repeat(1, 2, 1)
    return HeldOut(image, told if text else None, labels, torch.arange(n), prompts=named if prompts else None)


def trained(seen_: Seen, validation: HeldOut, *, seed: int = 0) -> Trained:
    return train_heads(seen_, validation, candidates=QUICK, schedule=SCHEDULE, classes=CLASSES, seed=seed)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).float().mean())


def test_pictures_alone_learn() -> None:
    found = trained(seen(text=False), held_out(text=False))
    test = held_out(seed=9, text=False)
    image, note = found.outputs(test, by="image")
    assert note is None
    assert set(found.kept) == {"image"}
    assert accuracy(image.logits, test.labels) > 0.7


def test_both_branches_learn_and_together_they_know_more() -> None:
    found = trained(seen(), held_out())
    test = held_out(300, seed=9)
    image, note = found.outputs(test, by="both")
    assert note is not None
    together = accuracy(image.logits + note.logits, test.labels)
    assert together > accuracy(found.outputs(test, by="image")[0].logits, test.labels) > 0.6
    assert set(found.kept) == {"image", "note", "both", "retrieval"}


def test_what_is_kept_is_the_best_on_validation_data() -> None:
    validation = held_out()
    found = trained(seen(), validation)
    for by, kept in found.kept.items():
        found.outputs(validation, by=by)  # puts these weights in
        assert validation_losses(found.head, validation)[by] == pytest.approx(kept.loss)
        assert kept.loss == min(found.losses[by])
        assert kept.candidate == int(np.argmin(found.losses[by]))


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    heads = [trained(seen(), held_out(), seed=seed).kept["both"].weights for seed in (0, 0, 1)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert any(not torch.equal(heads[0][name], heads[2][name]) for name in heads[0])


def test_shuffled_labels_leave_chance() -> None:
    found = trained(seen(text=False, shuffled=True), held_out(text=False))
    test = held_out(600, seed=9, text=False)
    assert accuracy(found.outputs(test, by="image")[0].logits, test.labels) < 0.55  # chance is a third


def shuffled(part: torch.Tensor, seed: int) -> torch.Tensor:
    return part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))]


def control(seed: int) -> Trained:
    """Trained and chosen by notes and prompts that belong to others, as the study's control is."""
    own, validation = seen(), held_out(prompts=True)
    assert own.text is not None
    assert validation.note is not None
    assert validation.prompts is not None
    wrong = replace(validation, note=shuffled(validation.note, seed + 50), prompts=validation.prompts.roll(1, dims=0))
    return trained(Seen(own.views, shuffled(own.text[0], seed)[None], own.labels), wrong, seed=seed)


def test_training_on_random_notes_leaves_retrieval_at_chance() -> None:
    """No class is learnt to lie near its notes: the mean of some seeds, each of which is off by a little."""
    test = held_out(300, seed=9)

    def mean_average_precision(found: Trained) -> float:
        found.outputs(test, by="retrieval")
        return 1 - validation_losses(found.head, test)["retrieval"]

    assert mean_average_precision(trained(seen(), held_out())) > 0.6
    controls = [mean_average_precision(control(seed)) for seed in range(4)]
    assert np.mean(controls) < 0.42, controls  # a third in random order; alike notes lie together


def test_every_arm_has_as_many_candidates() -> None:
    assert len(IMAGE_CANDIDATES) == len(TEXT_CANDIDATES)


def test_class_prompts_tell_the_class_without_the_classifier() -> None:
    """What the texts mean by a class is learnt from notes; the prompts were never seen."""
    found = trained(seen(), held_out(prompts=True))
    test = held_out(300, seed=9, prompts=True)
    assert accuracy(found.logits(test, by="prompts"), test.labels) > 0.6
    assert found.kept["prompts"].loss == min(found.losses["prompts"])


def test_class_prompts_are_at_chance_after_random_notes() -> None:
    test = held_out(600, seed=9, prompts=True)
    controls = [accuracy(control(seed).logits(test, by="prompts"), test.labels) for seed in range(4)]
    assert np.mean(controls) < 0.45, controls  # a third by chance
    assert accuracy(trained(seen(), held_out(prompts=True)).logits(test, by="prompts"), test.labels) > 0.6


def test_an_input_that_ran_out_of_patience_has_no_more_epochs_to_choose_from() -> None:
    """Else an arm with more inputs would be given longer than pictures alone."""
    keeper = _Keeper()
    keeper.begin()
    head = SharedHead(image_features=2, text_features=2, classes=2)
    losses = {1: (1.0, 9.0), 2: (2.0, 8.0), 3: (2.0, 7.0), 4: (0.5, 6.0), 5: (0.4, 7.0), 6: (0.3, 7.0)}
    went_on = [
        keeper.look(head, {"image": image, "note": note}, epoch=epoch, candidate=0, patience=2)
        for epoch, (image, note) in losses.items()
    ]
    assert keeper.kept["image"].epoch == 1
    assert keeper.kept["note"].epoch == 4
    assert went_on == [True, True, True, True, True, False]
