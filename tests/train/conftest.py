"""Small drawn images with distinguishable classes, and the pretrained towers, shared by the training tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.config import TrainConfig
from dermnote_train.data.records import Record, Split
from dermnote_train.models import towers

COLOURS = {"red": (200, 60, 60), "green": (60, 180, 60), "blue": (60, 60, 200)}
ToyRecords = Callable[..., tuple[Record, ...]]


@pytest.fixture(scope="session")
def toy_classes() -> tuple[str, ...]:
    return tuple(COLOURS)


@pytest.fixture
def toy_records(tmp_path: Path) -> ToyRecords:
    """Draw `each` images of every class: a noisy disc in the class's colour on a gray backbackground."""

    def draw(each: int, *, prefix: str = "img", classes: tuple[str, ...] = tuple(COLOURS)) -> tuple[Record, ...]:
        rng = np.random.default_rng(len(prefix) * 1000 + each)
        drawn = []
        for number in range(each):
            for label in classes:
                image_id = f"{prefix}-{label}-{number}"
                path = tmp_path / f"{image_id}.png"
                Image.fromarray(_disc(COLOURS[label], rng)).save(path)
                drawn.append(Record(image_id, path, f"group-{image_id}", label, LesionMetadata()))
        return tuple(drawn)

    return draw


def _disc(colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:48, :48]
    inside = (rows - rng.integers(20, 28)) ** 2 + (columns - rng.integers(20, 28)) ** 2 < rng.integers(100, 200)
    background = np.full((48, 48, 3), 190.0)
    background[inside] = colour
    return (background + rng.normal(0, 12, background.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def toy_split(toy_records: ToyRecords) -> Split:
    return Split(
        train=toy_records(8, prefix="train"),
        val=toy_records(3, prefix="val"),
        test=toy_records(3, prefix="test"),
        seed=0,
    )


@pytest.fixture
def toy_notes(toy_split: Split) -> dict[str, str]:
    records = (*toy_split.train, *toy_split.val, *toy_split.test)
    return {record.image_id: f"a {record.label} lesion of patient {record.image_id}" for record in records}


@pytest.fixture
def toy_config() -> TrainConfig:
    """Takes seconds on one core: tiny images, and only the head is trained."""
    return TrainConfig(image_size=32, epochs=3, batch_size=8, tuned="none", head_lr=3e-3, device="cpu")


@pytest.fixture(scope="session")
def lite_towers() -> towers.Towers:
    return towers.lite(image_size=224)
