"""A cell of the frozen grid from features made by hand: what chooses, what it answers, what its digest covers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.records import LesionDataset, Record, Split
from dermnote_train.study import frozen
from dermnote_train.study.arms import ARMS, NOTE_SETS, partners
from dermnote_train.study.frozen import Features, FrozenCell, make_cell
from dermnote_train.study.heads import HeldOut, Seen
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


def texts(features: Features, name: str, of: Sequence[Record]) -> torch.Tensor:
    return torch.stack([features.texts[SETS[name][record.image_id]] for record in of])


def cell(arm: str) -> FrozenCell:
    dataset = LesionDataset("toy", EVERY, classes=CLASSES, licence="-", synthetic=True)
    return FrozenCell("toy", arm, 0, dataset, SPLIT, {"val": SPLIT.val, "home": SPLIT.test}, SETS, CLASSES, GRID)


@pytest.mark.parametrize("arm", ["G", "random", "shuffled"])
def test_an_arm_is_chosen_by_notes_paired_as_it_is_trained(
    arm: str, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control that chose its epoch by true pairs would have learnt from them; it is tested with them all the same."""
    chosen_by: list[tuple[Seen, HeldOut]] = []
    learn = frozen.train_heads
    monkeypatch.setattr(
        frozen, "train_heads", lambda seen, held, **more: chosen_by.append((seen, held)) or learn(seen, held, **more)
    )
    made = make_cell(cell(arm), features=features)

    ((_, validation),) = chosen_by
    assert validation.note is not None
    order = partners(ARMS[arm], SPLIT.val, seed=0)
    assert (order == list(range(len(order)))) == (arm == "G")
    told = texts(features, ARMS[arm].read, [SPLIT.val[row] for row in order])
    learnt = texts(features, ARMS[arm].notes[0], SPLIT.train)  # whoever's they are, together they are these
    assert torch.allclose(validation.note, (told - learnt.mean(dim=0)) / learnt.std(dim=0), atol=1e-4)
    assert made.pools["home"].note is not None


def test_what_is_answered_depends_on_what_the_arm_learns(features: Features) -> None:
    given = {arm: set(make_cell(cell(arm), features=features).pools["home"].logits) for arm in ("image", "G", "table")}
    assert given == {
        "image": {"image"},
        "G": {"image", "note", "both", "prompts"},
        "table": {"image", "note", "both"},
    }
    assert set(make_cell(cell("class-name"), features=features).pools["home"].logits) == {"image", "prompts"}


def test_a_digest_is_of_everything_that_the_outputs_depend_on() -> None:
    one = cell("G")
    sets = SETS | {"G": SETS["G"] | {"train-0": "another"}}
    others = [
        one.digest("other features"),
        FrozenCell(**(vars(one) | {"sets": sets})).digest("k"),
        FrozenCell(**(vars(one) | {"seed": 1})).digest("k"),
        FrozenCell(**(vars(one) | {"grid": GRID.model_copy(update={"wording": "facts"})})).digest("k"),
    ]
    assert len({one.digest("k"), *others}) == 5
    unread = SETS | {"P1": SETS["P1"] | {"train-0": "another"}}
    assert FrozenCell(**(vars(one) | {"sets": unread})).digest("k") == one.digest("k")


def test_a_trial_lies_apart_from_the_grid() -> None:
    one = cell("G")
    assert one.path == "frozen/toy/G/seed0.safetensors"
    tried = FrozenCell(**(vars(one) | {"trial": "larger"}))
    assert tried.path == "trials/larger/toy/G/seed0.safetensors"
