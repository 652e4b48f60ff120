"""A cell of the frozen grid on handmade features: selection, outputs, and the inputs that its digest covers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.study.arms import ARMS, NOTE_SETS, note_owners
from dermnote_train.study.cells.frozen import Features, FrozenCell, _Inputs, compute_frozen_cell
from dermnote_train.study.plan import FrozenGrid
from dermnote_train.study.prompts import class_prompts

CLASSES = ("NEV", "MEL")
GRID = FrozenGrid(epochs=3, patience=3, batch_size=8)


def records(part: str, count: int) -> tuple[Record, ...]:
    return tuple(
        Record(f"{part}-{row}", Path(f"{row}.jpg"), f"{part}{row}", CLASSES[row % 2], LesionMetadata(age=20 + row))
        for row in range(count)
    )


SPLIT = Split(train=records("train", 24), val=records("val", 12), test=records("test", 12), seed=0)
EVERY = (*SPLIT.train, *SPLIT.val, *SPLIT.test)
IMAGE_HASHES = {record.image_id: f"sha of {record.image_id}" for record in EVERY}
SETS = {name: {record.image_id: f"{name} of {record.image_id}" for record in EVERY} for name in NOTE_SETS}


@pytest.fixture
def features() -> Features:
    """Every text has its own vector."""
    rng = np.random.default_rng(0)
    texts = [text for texts in SETS.values() for text in texts.values()]
    texts += [text for prompts in class_prompts(CLASSES) for text in prompts] + ["nevus", "melanoma"]
    return Features(
        views={record.image_id: torch.tensor(rng.normal(size=(2, 6))).half() for record in EVERY},
        texts={text: torch.tensor(rng.normal(size=4)).float() for text in texts},
        key="k",
    )


def inputs_of(arm: str, features: Features) -> _Inputs:
    return _Inputs(cell(arm), ARMS[arm], features)


def scaled_texts(inputs: _Inputs, name: str, of: Sequence[Record]) -> torch.Tensor:
    assert inputs.scale_text is not None
    return inputs.scale_text(inputs.features.of_texts([SETS[name][record.image_id] for record in of]))


def cell(arm: str) -> FrozenCell:
    dataset = LesionDataset("toy", EVERY, classes=CLASSES, licence="-", synthetic=True)
    return FrozenCell(
        "toy", arm, 0, dataset, SPLIT, {"val": SPLIT.val, "home": SPLIT.test}, SETS, CLASSES, IMAGE_HASHES, GRID
    )


@pytest.mark.parametrize("arm", ["G", "random", "shuffled"])
def test_selection_pairs_notes_as_in_training(arm: str, features: Features) -> None:
    """A control that selected its epoch by true pairs would have learned from them; it is still tested with them."""
    inputs = inputs_of(arm, features)
    data = inputs.selection_data()
    order = note_owners(ARMS[arm], SPLIT.val, seed=0)
    assert (order == list(range(len(order)))) == (arm == "G")
    assert data.note is not None
    assert torch.equal(data.note, scaled_texts(inputs, ARMS[arm].test_notes, [SPLIT.val[row] for row in order]))
    tested = inputs.evaluation_data(SPLIT.test)
    assert tested.note is not None
    assert torch.equal(tested.note, scaled_texts(inputs, ARMS[arm].test_notes, SPLIT.test))


def test_the_outputs_depend_on_the_arm(features: Features) -> None:
    given = {
        arm: set(compute_frozen_cell(cell(arm), features=features).pools["home"].logits)
        for arm in ("image", "G", "table")
    }
    assert given == {
        "image": {"image"},
        "G": {"image", "note", "both", "prompts"},
        "table": {"image", "note", "both"},
    }
    assert set(compute_frozen_cell(cell("class-name"), features=features).pools["home"].logits) == {"image", "prompts"}


def other(cell_: FrozenCell, **changes: object) -> FrozenCell:
    return FrozenCell(**(vars(cell_) | changes))


RELABELLED = replace(SPLIT.train[0], label="MEL")
CHANGES = {
    "texts": {"sets": SETS | {"G": SETS["G"] | {"train-0": "another"}}},
    "texts read at test time": {"sets": SETS | {"G-blinded": SETS["G-blinded"] | {"test-0": "another"}}},
    "seed": {"seed": 1},
    "settings": {"grid": GRID.model_copy(update={"wording": "facts"})},
    "classes": {"classes": ("MEL", "NEV")},
    "pictures": {"image_hashes": IMAGE_HASHES | {"train-0": "another"}},
    "test pictures": {"image_hashes": IMAGE_HASHES | {"test-0": "another"}},
    "labels": {"split": replace(SPLIT, train=(RELABELLED, *SPLIT.train[1:]))},
    "groups": {"split": replace(SPLIT, train=(replace(SPLIT.train[0], group="g"), *SPLIT.train[1:]))},
    "pools": {"pools": {"val": SPLIT.val}},
    "arm": {"arm": "M"},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_digest_covers_every_input_of_the_outputs(what: str) -> None:
    assert other(cell("G"), **CHANGES[what]).digest("k") != cell("G").digest("k")


def test_a_digest_covers_nothing_else() -> None:
    unread = SETS | {"P1": SETS["P1"] | {"train-0": "another"}}
    assert other(cell("G"), sets=unread).digest("k") == cell("G").digest("k")
    assert cell("G").digest("other features") != cell("G").digest("k")


def test_controls_are_selected_on_corrupted_prompts_and_labels(features: Features) -> None:
    """Selecting on true prompts or labels would pick the best of many epochs by the truth."""
    random, shuffled = inputs_of("random", features), inputs_of("shuffled-labels", features)
    true_prompts = random.evaluation_data(SPLIT.val).prompts
    selection = random.selection_data()
    assert true_prompts is not None
    assert selection.prompts is not None
    assert torch.equal(selection.prompts[0], true_prompts[1])
    true_labels = shuffled.evaluation_data(SPLIT.val).labels
    assert torch.equal(selection.labels, true_labels)
    shuffled_labels = shuffled.selection_data().labels
    assert sorted(shuffled_labels.tolist()) == sorted(true_labels.tolist())
    assert not torch.equal(shuffled_labels, true_labels)


def test_an_ablation_has_its_own_folder() -> None:
    one = cell("G")
    assert one.path == "frozen/toy/G/seed0.safetensors"
    ablation = other(one, ablation="larger")
    assert ablation.path == "trials/larger/toy/G/seed0.safetensors"
