"""Heads on given features: they learn, selection uses validation data only, and controls stay at chance."""

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
    EvaluationData,
    Schedule,
    TrainedHeads,
    TrainingData,
    _Selection,
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
    n: int, *, seed: int, signal: float = 1.0, noise: float = 0.6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, and images and texts that both reveal the class; `signal`: how strongly the text does."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    image = rng.normal(0, noise, (n, WIDTH)) + np.eye(WIDTH)[labels]
    text = rng.normal(0, noise, (n, TEXT)) + signal * np.eye(TEXT)[labels]
    return torch.tensor(labels), torch.tensor(image).float(), torch.tensor(text).float()


def training_data(n: int = 120, *, text: bool = True, shuffled: bool = False) -> TrainingData:
    labels, image, text_rows = data(n, seed=0)
    if shuffled:
        labels = labels[torch.randperm(n, generator=torch.Generator().manual_seed(1))]
    return TrainingData(image[:, None].repeat(1, 2, 1), text_rows[None] if text else None, labels)


def evaluation_data(n: int = 90, *, seed: int = 5, text: bool = True, prompts: bool = False) -> EvaluationData:
    labels, image, text_rows = data(n, seed=seed)
    named = torch.eye(TEXT)[:CLASSES, None].repeat(1, 2, 1)
    return EvaluationData(
        image, text_rows if text else None, labels, torch.arange(n), prompts=named if prompts else None
    )


def trained(data_: TrainingData, validation: EvaluationData, *, seed: int = 0) -> TrainedHeads:
    return train_heads(data_, validation, candidates=QUICK, schedule=SCHEDULE, classes=CLASSES, seed=seed)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).float().mean())


def test_images_alone_learn() -> None:
    heads = trained(training_data(text=False), evaluation_data(text=False))
    test = evaluation_data(seed=9, text=False)
    image, note = heads.outputs(test, by="image")
    assert note is None
    assert set(heads.best) == {"image"}
    assert accuracy(image.logits, test.labels) > 0.7


def test_both_branches_learn_and_combine() -> None:
    heads = trained(training_data(), evaluation_data())
    test = evaluation_data(300, seed=9)
    image, note = heads.outputs(test, by="both")
    assert note is not None
    together = accuracy(image.logits + note.logits, test.labels)
    assert together > accuracy(heads.outputs(test, by="image")[0].logits, test.labels) > 0.6
    assert set(heads.best) == {"image", "note", "both", "retrieval"}


def test_the_selected_weights_are_the_best_on_validation_data() -> None:
    validation = evaluation_data()
    heads = trained(training_data(), validation)
    for by, best in heads.best.items():
        heads.load(by)
        assert validation_losses(heads.head, validation)[by] == pytest.approx(best.loss)
        assert best.loss == min(heads.losses[by])
        assert best.candidate == int(np.argmin(heads.losses[by]))


def test_the_weights_depend_on_the_seed() -> None:
    heads = [trained(training_data(), evaluation_data(), seed=seed).best["both"].weights for seed in (0, 0, 1)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert any(not torch.equal(heads[0][name], heads[2][name]) for name in heads[0])


def test_shuffled_labels_stay_at_chance() -> None:
    heads = trained(training_data(text=False, shuffled=True), evaluation_data(text=False))
    test = evaluation_data(600, seed=9, text=False)
    assert accuracy(heads.outputs(test, by="image")[0].logits, test.labels) < 0.55  # chance is a third


def shuffled(part: torch.Tensor, seed: int) -> torch.Tensor:
    return part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))]


def control(seed: int) -> TrainedHeads:
    """Trained and selected on notes and prompts of other records, like the study's control."""
    own, validation = training_data(), evaluation_data(prompts=True)
    assert own.text is not None
    assert validation.note is not None
    assert validation.prompts is not None
    wrong = replace(validation, note=shuffled(validation.note, seed + 50), prompts=validation.prompts.roll(1, dims=0))
    return trained(TrainingData(own.views, shuffled(own.text[0], seed)[None], own.labels), wrong, seed=seed)


def test_training_on_random_notes_keeps_retrieval_at_chance() -> None:
    """Images do not move near notes of their class; averaged over seeds, each of which deviates a little."""
    test = evaluation_data(300, seed=9)

    def mean_average_precision(heads: TrainedHeads) -> float:
        heads.load("retrieval")
        return 1 - validation_losses(heads.head, test)["retrieval"]

    assert mean_average_precision(trained(training_data(), evaluation_data())) > 0.6
    controls = [mean_average_precision(control(seed)) for seed in range(4)]
    assert np.mean(controls) < 0.42, (
        controls
    )  # a third in random order, slightly more since similar notes are ranked together


def test_every_arm_has_the_same_number_of_candidates() -> None:
    assert len(IMAGE_CANDIDATES) == len(TEXT_CANDIDATES)


def test_class_prompts_classify_without_the_classifier() -> None:
    """The meaning of the texts is learned from notes; the prompts are not used in training."""
    heads = trained(training_data(), evaluation_data(prompts=True))
    test = evaluation_data(300, seed=9, prompts=True)
    assert accuracy(heads.logits(test, by="prompts"), test.labels) > 0.6
    assert heads.best["prompts"].loss == min(heads.losses["prompts"])


def test_class_prompts_are_at_chance_after_random_notes() -> None:
    test = evaluation_data(600, seed=9, prompts=True)
    controls = [accuracy(control(seed).logits(test, by="prompts"), test.labels) for seed in range(4)]
    assert np.mean(controls) < 0.45, controls  # a third by chance
    assert (
        accuracy(trained(training_data(), evaluation_data(prompts=True)).logits(test, by="prompts"), test.labels) > 0.6
    )


def test_a_criterion_without_patience_selects_from_no_more_epochs() -> None:
    """Otherwise arms with more inputs would train longer than images alone."""
    selection = _Selection()
    selection.start_candidate()
    head = SharedHead(image_features=2, text_features=2, classes=2)
    losses = {1: (1.0, 9.0), 2: (2.0, 8.0), 3: (2.0, 7.0), 4: (0.5, 6.0), 5: (0.4, 7.0), 6: (0.3, 7.0)}
    continues = [
        selection.record(head, {"image": image, "note": note}, epoch=epoch, candidate=0, patience=2)
        for epoch, (image, note) in losses.items()
    ]
    assert selection.best["image"].epoch == 1
    assert selection.best["note"].epoch == 4
    assert continues == [True, True, True, True, True, False]
