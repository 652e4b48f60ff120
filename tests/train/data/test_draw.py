"""The drawn data set: reproducible, balanced, valid under the contract, and labelled SYNTHETIC everywhere."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.adapters import load_dataset, read_folder
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.images import undecodable
from dermnote_train.data.labels import PAPER5
from dermnote_train.data.records import LesionDataset
from dermnote_train.errors import UserError
from dermnote_train.progress import Step

COUNT = 42


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("data") / "drawn", count=COUNT, seed=5)


@pytest.fixture(scope="module")
def dataset(drawn: Path) -> LesionDataset:
    return load_dataset(drawn)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    first, second = (draw_dataset(tmp_path / name, count=6, seed=3) for name in ("first", "second"))
    assert len(_bytes(first)) == 6 + len(("metadata.csv", "SYNTHETIC.txt"))
    assert _bytes(first) == _bytes(second)


def test_another_seed_draws_other_patients_and_images(tmp_path: Path) -> None:
    folders = [draw_dataset(tmp_path / str(seed), count=6, seed=seed) for seed in (3, 14)]
    rows = zip(*map(_table, folders), strict=True)
    assert any(one["diagnosis"] == other["diagnosis"] for one, other in rows)  # the same class, but another image
    first, second = map(_bytes, folders)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] == second[name]] == []


def test_every_drawn_image_is_different(dataset: LesionDataset) -> None:
    images = {record.image_path.read_bytes() for record in dataset.records}
    assert len(images) == COUNT


@pytest.mark.parametrize("count", [5, 8])
def test_the_five_classes_are_balanced(tmp_path: Path, count: int) -> None:
    counts = Counter(row["diagnosis"] for row in _table(draw_dataset(tmp_path / "drawn", count=count)))
    assert len(counts) == len(PAPER5)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_everything_drawn_is_labelled_synthetic(drawn: Path) -> None:
    assert (
        (drawn / "SYNTHETIC.txt").read_text("utf-8").startswith("SYNTHETIC: every picture here is drawn by a program")
    )
    rows = _table(drawn)
    for row in rows:
        assert row["synthetic"] == "true"
        assert all(row[column].startswith("SYNTHETIC_") for column in ("image", "patient_id", "lesion_id"))
        with Image.open(drawn / "images" / row["image"]) as image:
            assert image.info["comment"] == b"SYNTHETIC: drawn by a program"
    assert {path.name for path in (drawn / "images").iterdir()} == {row["image"] for row in rows}


def test_a_drawn_folder_is_read_as_a_synthetic_data_set_without_faults(drawn: Path, dataset: LesionDataset) -> None:
    reading = read_folder(drawn)
    assert (reading.synthetic, reading.licence, reading.group_column) == (True, "CC0-1.0", "patient_id")
    assert reading.faults == ()
    assert dataset.synthetic
    assert dataset.classes == PAPER5
    assert len(dataset.records) == COUNT
    assert undecodable(dataset.records) == []


def test_every_drawn_fact_is_a_term_of_the_contract(drawn: Path) -> None:
    for row in _table(drawn):
        facts = {name: row[name] for name in ("diagnosis", "age", "sex", "site")}
        symptoms = {name: row[name] for name in ("itch", "grew", "bleed")}
        given = LesionMetadata.model_validate(facts | {"symptoms": symptoms}).given()
        assert given.pop("symptoms", {}) == {name: value for name, value in symptoms.items() if value != "unknown"}
        assert {name: str(value) for name, value in given.items()} == {k: v for k, v in facts.items() if v}


def test_drawn_patients_are_plausible(dataset: LesionDataset) -> None:
    ages = defaultdict(list)
    for record in dataset.records:
        if record.metadata.age is not None:
            assert 0 < record.metadata.age < 100
            ages[record.label].append(record.metadata.age)
    assert np.mean(ages["NEV"]) + 10 < min(np.mean(ages[label]) for label in ("ACK", "BCC", "BEK"))
    assert {record.metadata.sex for record in dataset.records} == {"male", "female", None}
    assert len({record.metadata.site for record in dataset.records}) > 5


def test_lesions_of_a_drawn_patient_have_the_same_age_and_sex(drawn: Path) -> None:
    patients = defaultdict(list)
    for row in _table(drawn):
        patients[row["patient_id"]].append((row["age"], row["sex"]))
    assert max(map(len, patients.values())) == 2
    assert all(len(set(facts)) == 1 for facts in patients.values())


def test_drawn_images_are_rgb(dataset: LesionDataset) -> None:
    for record in dataset.records:
        with Image.open(record.image_path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (224, 224))


def test_colour_alone_identifies_some_but_not_all_classes(dataset: LesionDataset) -> None:
    traits = np.array([_colours(record.image_path) for record in dataset.records])
    labels = np.array([record.label for record in dataset.records])
    right = 0
    for number, label in enumerate(labels):
        others = np.arange(COUNT) != number
        distance = {c: np.linalg.norm(traits[number] - traits[others & (labels == c)].mean(0)) for c in PAPER5}
        right += min(distance, key=distance.__getitem__) == label
    assert 0.35 < right / COUNT < 0.9


def _colours(path: Path) -> np.ndarray:
    """Colour difference between the centre and the skin, and the variation of the centre."""
    with Image.open(path) as image:
        pixels = np.asarray(image, dtype=float)
    skin = np.concatenate([pixels[:12], pixels[-12:]]).mean((0, 1))
    middle = pixels[72:152, 72:152]
    return np.concatenate([(middle.mean((0, 1)) - skin) / 60, middle.std((0, 1)) / 20])


def test_progress_counts_every_image(tmp_path: Path) -> None:
    steps: list[Step] = []
    draw_dataset(tmp_path / "drawn", count=3, progress=steps.append)
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]


def test_an_identical_drawn_data_set_is_reused(tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "drawn", count=3)
    (folder / "notes.txt").write_text("mine", "utf-8")
    steps: list[Step] = []
    assert draw_dataset(folder, count=3, progress=steps.append) == folder
    assert steps == []
    assert (folder / "notes.txt").read_text("utf-8") == "mine"


def test_a_different_drawn_data_set_is_replaced(tmp_path: Path) -> None:
    folder = draw_dataset(tmp_path / "drawn", count=4, seed=1)
    draw_dataset(folder, count=3, seed=2)
    assert len(_table(folder)) == len(list((folder / "images").iterdir())) == 3
    assert _bytes(folder) == _bytes(draw_dataset(tmp_path / "new", count=3, seed=2))


def test_other_files_are_never_overwritten(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine", "utf-8")
    mixed = draw_dataset(tmp_path / "mixed", count=3, seed=1)
    (mixed / "thesis.txt").write_text("mine", "utf-8")
    expected = {
        full: "not empty and not a drawn data set; give a new folder",
        mixed: "a drawn data set that also contains thesis.txt; give a new folder",
        full / "thesis.txt": "is a file; give a new folder",
    }
    for folder, reason in expected.items():
        with pytest.raises(UserError) as raised:
            draw_dataset(folder, count=3)
        assert str(raised.value) == f"{folder}: {reason}"
    assert (full / "thesis.txt").read_text("utf-8") == (mixed / "thesis.txt").read_text("utf-8") == "mine"


def test_an_interrupted_drawing_leaves_no_files(tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_dataset(tmp_path / "data" / "drawn", count=5, progress=stop)
    assert list((tmp_path / "data").iterdir()) == []
