"""Training on small drawn images: it learns, stops early, is reproducible, and rejects unsuitable data."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from dermnote_train.config import TrainConfig
from dermnote_train.data.records import Record, Split
from dermnote_train.errors import UserError
from dermnote_train.models import checkpoint, images
from dermnote_train.models.checkpoint import load_checkpoint
from dermnote_train.models.inference import predict_images
from dermnote_train.models.model import LesionModel
from dermnote_train.progress import Step
from dermnote_train.training.sampling import balanced_sample
from dermnote_train.training.train import TrainResult, train

ToyRecords = Callable[..., tuple[Record, ...]]
Notes = dict[str, str] | None
Run = Callable[..., TrainResult]


@pytest.fixture
def run(toy_config: TrainConfig, toy_split: Split, toy_classes: tuple[str, ...], tmp_path: Path) -> Run:
    """Train on the toy split; keywords change the config."""

    def run(notes: Notes = None, *, split: Split = toy_split, into: str = "run", **changes: object) -> TrainResult:
        config = TrainConfig.model_validate(toy_config.model_dump() | changes)
        return train(config, split=split, classes=toy_classes, notes=notes, run_dir=tmp_path / into)

    return run


def _head(result: TrainResult) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in result.model.head.parameters()]).detach()


def test_it_learns_distinguishable_classes(run: Run, toy_notes: Notes) -> None:
    result = run(toy_notes, epochs=6)
    assert result.history[-1].loss < result.history[0].loss / 2
    assert result.history[result.best_epoch - 1].val_balanced_accuracy > 0.8
    assert result.images_per_s > 0


def test_images_alone_have_no_text_terms(run: Run) -> None:
    result = run(None)
    assert not result.model.with_notes
    for row in result.history:
        assert row.loss == row.image_ce > 0
        assert row.text_ce == row.cosine == row.l1 == row.nt_xent == 0


def test_with_notes_every_term_of_the_paper_contributes(run: Run, toy_notes: Notes) -> None:
    for row in run(toy_notes, epochs=1).history:
        assert min(row.image_ce, row.text_ce, row.cosine, row.l1, row.nt_xent) > 0
        assert row.loss == pytest.approx(row.image_ce + row.text_ce + row.cosine + row.l1 + 0.5 * row.nt_xent, rel=1e-4)


def test_a_run_is_reproducible_by_its_seed(run: Run, toy_notes: Notes) -> None:
    one, same, other = (run(toy_notes, into=name, seed=seed, epochs=2) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    torch.testing.assert_close(_head(one), _head(same))
    assert [row.loss for row in one.history] == pytest.approx([row.loss for row in same.history], rel=1e-5)
    assert not torch.allclose(_head(one), _head(other))


def test_only_the_tuned_part_changes(run: Run, toy_notes: Notes) -> None:
    fresh = checkpoint.build_model(TrainConfig(image_size=32), classes=("a", "b"), with_notes=True).towers.state_dict()
    for tuned, learns in (("last", ("conv_head",)), ("all", ("conv_stem", "conv_head"))):
        towers = run(toy_notes, into=tuned, tuned=tuned, epochs=1).model.towers.state_dict()
        changed = {name for name, weight in towers.items() if not torch.equal(weight, fresh[name])}
        assert not [name for name in changed if name.startswith("clip.text.")]
        assert not [name for name in changed if "running_" in name]
        for layer in ("conv_stem", "conv_head"):
            assert (f"clip.visual.trunk.{layer}.weight" in changed) == (layer in learns)


def test_normalisation_statistics_move_when_they_are_not_frozen(run: Run) -> None:
    fresh = checkpoint.build_model(TrainConfig(image_size=32), classes=("a", "b"), with_notes=False)
    moved = run(None, tuned="all", frozen_norm=False, epochs=1).model
    name = "clip.visual.trunk.bn1.running_mean"
    assert not torch.equal(moved.towers.state_dict()[name], fresh.towers.state_dict()[name])


def test_it_stops_early_and_keeps_the_best_epoch(run: Run, toy_notes: Notes, toy_split: Split, tmp_path: Path) -> None:
    # A learning rate far too high: validation gets worse after a good start, long before 40 epochs.
    result = run(toy_notes, epochs=40, patience=2, head_lr=0.05)
    losses = [row.val_ce for row in result.history]
    assert len(losses) < 40
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert len(losses) == result.best_epoch + 2
    kept = load_checkpoint(tmp_path / "run", split=toy_split)
    for model in (kept, result.model):
        held_out = _cross_entropy(model, toy_split)
        assert held_out == pytest.approx(min(losses), rel=1e-4)


def _cross_entropy(model: LesionModel, split: Split) -> float:
    logits = predict_images(model, images.decode(split.val, preprocessing=model.towers.preprocessing)).logits
    labels = torch.tensor([model.classes.index(record.label) for record in split.val])
    return cross_entropy(logits, labels).item()


def test_a_run_folder_records_the_run(run: Run, toy_notes: Notes, tmp_path: Path) -> None:
    result = run(toy_notes, epochs=2)
    with (tmp_path / "run" / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_ce"]) for row in rows] == [row.val_ce for row in result.history]
    facts = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert facts["images"] == {"train": 24, "val": 9, "test": 9}
    assert TrainConfig.model_validate(facts["config"]).image_size == 32
    assert not list((tmp_path / "run").glob(".*"))


def test_progress_ends_every_stage(
    toy_config: TrainConfig, toy_split: Split, toy_notes: Notes, toy_classes: tuple[str, ...], tmp_path: Path
) -> None:
    steps: list[Step] = []
    config = toy_config.model_copy(update={"epochs": 2})
    train(config, split=toy_split, classes=toy_classes, notes=toy_notes, run_dir=tmp_path, progress=steps.append)
    last = {step.stage: step for step in steps}
    assert {"decode images", "encode notes", "epoch 1/2", "epoch 2/2"} <= set(last)
    assert all(step.done == step.total for step in last.values())


def test_a_rare_class_is_sampled_as_often_as_the_others() -> None:
    labels = torch.tensor([0] * 2 + [1] * 90 + [2] * 400)
    counts = torch.bincount(labels[balanced_sample(labels, classes=3, seed=0, epoch=1)], minlength=3)
    assert counts.sum() == len(labels)
    assert counts.min() > 0.75 * len(labels) / 3


def test_a_class_without_training_images_is_rejected(run: Run, toy_split: Split) -> None:
    incomplete = replace(toy_split, train=tuple(record for record in toy_split.train if record.label != "blue"))
    with pytest.raises(UserError, match=r"too few training images of blue \(0\)"):
        run(None, split=incomplete)


def test_an_empty_validation_part_is_rejected(run: Run, toy_split: Split) -> None:
    with pytest.raises(UserError, match="only 0 validation images"):
        run(None, split=replace(toy_split, val=()))


def test_a_label_outside_the_classes_is_rejected(run: Run, toy_split: Split) -> None:
    odd = replace(toy_split.val[0], label="purple")
    with pytest.raises(UserError, match="purple"):
        run(None, split=replace(toy_split, val=(*toy_split.val, odd)))


def test_a_single_class_is_rejected(toy_config: TrainConfig, toy_split: Split, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2"):
        train(toy_config, split=toy_split, classes=["red"], notes=None, run_dir=tmp_path)


def test_a_missing_or_empty_note_is_named(run: Run, toy_split: Split, toy_notes: dict[str, str]) -> None:
    first = toy_split.train[0].image_id
    without = {name: note for name, note in toy_notes.items() if name != first}
    for notes in (without, without | {first: "  "}):
        with pytest.raises(UserError, match=f"1 of 24 training images have no note .*{first}"):
            run(notes)


def test_a_rejected_run_leaves_no_files(run: Run, toy_split: Split, tmp_path: Path) -> None:
    toy_split.train[3].image_path.write_bytes(b"no image")
    with pytest.raises(UserError, match="not a JPEG, PNG or WebP image"):
        run(None)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_run_that_diverges_is_reported(run: Run, toy_notes: Notes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged in epoch 1 \(loss is NaN or infinite\)"):
        run(toy_notes, head_lr=1e30)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_papers_values_stay_available() -> None:
    paper = TrainConfig.paper()
    assert (paper.lr, paper.head_lr, paper.batch_size, paper.epochs) == (1e-4, 1e-4, 32, 10)
    assert (paper.image_size, paper.weight_decay, paper.losses.nt_xent) == (224, 1e-5, 0.5)
    assert not paper.frozen_norm
