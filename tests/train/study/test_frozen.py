"""A cell of the frozen grid from features made by hand: what chooses, what it answers, what its digest covers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.study.arms import ARMS, NOTE_SETS, partners
from dermnote_train.study.cells import frozen
from dermnote_train.study.cells.frozen import Features, FrozenCell, make_cell
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
PICTURES = {record.image_id: f"sha of {record.image_id}" for record in EVERY}
SETS = {name: {record.image_id: f"{name} of {record.image_id}" for record in EVERY} for name in NOTE_SETS}


@pytest.fixture
def features() -> Features:
    """Every text has a vector of its own."""
    rng = np.random.default_rng(0)
    texts = [text for texts in SETS.values() for text in texts.values()]
    texts += [text for prompts in class_prompts(CLASSES) for text in prompts] + ["nevus", "melanoma"]
    return Features(
        views={record.image_id: torch.tensor(rng.normal(size=(2, 6))).half() for record in EVERY},
        texts={text: torch.tensor(rng.normal(size=4)).float() for text in texts},
        key="k",
    )


PLAIN = frozen._Scales(frozen._Scale(torch.zeros(6), torch.ones(6)), frozen._Scale(torch.zeros(4), torch.ones(4)))


def texts(features: Features, name: str, of: Sequence[Record]) -> torch.Tensor:
    return torch.stack([features.texts[SETS[name][record.image_id]] for record in of])


def cell(arm: str) -> FrozenCell:
    dataset = LesionDataset("toy", EVERY, classes=CLASSES, licence="-", synthetic=True)
    return FrozenCell(
        "toy", arm, 0, dataset, SPLIT, {"val": SPLIT.val, "home": SPLIT.test}, SETS, CLASSES, PICTURES, GRID
    )


@pytest.mark.parametrize("arm", ["G", "random", "shuffled"])
def test_an_arm_is_chosen_by_notes_paired_as_it_is_trained(arm: str, features: Features) -> None:
    """A control that chose its epoch by true pairs would have learnt from them; it is tested with them all the same."""
    found = frozen._chooser(cell(arm), features=features, scales=PLAIN, table=None)
    order = partners(ARMS[arm], SPLIT.val, seed=0)
    assert (order == list(range(len(order)))) == (arm == "G")
    assert found.note is not None
    assert torch.equal(found.note, texts(features, ARMS[arm].read, [SPLIT.val[row] for row in order]))
    tested = frozen._held_out(SPLIT.test, SPLIT.test, cell=cell(arm), features=features, scales=PLAIN, table=None)
    assert tested.note is not None
    assert torch.equal(tested.note, texts(features, ARMS[arm].read, SPLIT.test))


def test_what_is_answered_depends_on_what_the_arm_learns(features: Features) -> None:
    given = {arm: set(make_cell(cell(arm), features=features).pools["home"].logits) for arm in ("image", "G", "table")}
    assert given == {
        "image": {"image"},
        "G": {"image", "note", "both", "prompts"},
        "table": {"image", "note", "both"},
    }
    assert set(make_cell(cell("class-name"), features=features).pools["home"].logits) == {"image", "prompts"}


def other(cell_: FrozenCell, **changes: object) -> FrozenCell:
    return FrozenCell(**(vars(cell_) | changes))


RELABELLED = replace(SPLIT.train[0], label="MEL")
CHANGES = {
    "texts": {"sets": SETS | {"G": SETS["G"] | {"train-0": "another"}}},
    "texts read at test time": {"sets": SETS | {"G-blinded": SETS["G-blinded"] | {"test-0": "another"}}},
    "seed": {"seed": 1},
    "settings": {"grid": GRID.model_copy(update={"wording": "facts"})},
    "classes": {"classes": ("MEL", "NEV")},
    "pictures": {"pictures": PICTURES | {"train-0": "another"}},
    "test pictures": {"pictures": PICTURES | {"test-0": "another"}},
    "labels": {"split": replace(SPLIT, train=(RELABELLED, *SPLIT.train[1:]))},
    "groups": {"split": replace(SPLIT, train=(replace(SPLIT.train[0], group="g"), *SPLIT.train[1:]))},
    "pools": {"pools": {"val": SPLIT.val}},
    "arm": {"arm": "M"},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_digest_is_of_everything_that_the_outputs_depend_on(what: str) -> None:
    assert other(cell("G"), **CHANGES[what]).digest("k") != cell("G").digest("k")


def test_a_digest_is_of_nothing_else() -> None:
    unread = SETS | {"P1": SETS["P1"] | {"train-0": "another"}}
    assert other(cell("G"), sets=unread).digest("k") == cell("G").digest("k")
    assert cell("G").digest("other features") != cell("G").digest("k")


def test_a_control_is_chosen_by_prompts_and_labels_as_wrong_as_it_learns(features: Features) -> None:
    """What is chosen by true prompts, or by true labels, is the best of many looks at the truth."""
    honest, random, shuffled = (
        frozen._chooser(cell(arm), features=features, scales=PLAIN, table=None)
        for arm in ("G", "random", "shuffled-labels")
    )
    assert honest.prompts is not None
    assert random.prompts is not None
    assert torch.equal(random.prompts[0], honest.prompts[1])
    assert torch.equal(random.labels, honest.labels)
    assert sorted(shuffled.labels.tolist()) == sorted(honest.labels.tolist())
    assert not torch.equal(shuffled.labels, honest.labels)


def test_a_trial_lies_apart_from_the_grid() -> None:
    one = cell("G")
    assert one.path == "frozen/toy/G/seed0.safetensors"
    tried = other(one, trial="larger")
    assert tried.path == "trials/larger/toy/G/seed0.safetensors"
