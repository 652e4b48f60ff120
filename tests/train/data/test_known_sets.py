"""The other public data sets in their published structure, and columns.toml for any other CSV.

The rows are invented; columns, spellings and folders are those of the data sets.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from dermnote_train.data.adapters import Reading, load_dataset, read_folder
from dermnote_train.errors import UserError

Cells = dict[str, str]


def write(path: Path, rows: Sequence[Cells]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), (200, 150, 120)).save(path)


def read(folder: Path) -> Reading:
    reading = read_folder(folder)
    assert reading.faults == ()
    return reading


def summary(reading: Reading) -> list[tuple[str, str, str]]:
    """(image, group, class) of every record."""
    return [(record.image_id, record.group, record.label) for record in reading.records]


# BCN20000


def test_bcn20000_is_read_without_its_test_part(tmp_path: Path) -> None:
    row = {"bcn_filename": "BCN_1.jpg", "age_approx": "35.0", "anatom_site_general": "lateral torso"}
    row |= {"diagnosis": "MEL", "lesion_id": "BCN_L1", "capture_date": "2020-01-01", "sex": "male"}
    write(
        tmp_path / "bcn20000_metadata.csv",
        [
            row,
            row | {"bcn_filename": "BCN_2.jpg", "lesion_id": ""},
            row | {"bcn_filename": "BCN_3.jpg", "diagnosis": ""},
        ],
    )
    draw(*(tmp_path / "BCN_20k_train" / f"BCN_{number}.jpg" for number in (1, 2, 3)))
    reading = read(tmp_path)
    assert reading.name == "bcn20000"
    assert summary(reading) == [
        ("BCN_1", "bcn20000:BCN_L1", "MEL"),
        ("BCN_2", "bcn20000:BCN_2", "MEL"),
    ]
    assert reading.skipped == {"no diagnosis": 1}
    facts = {"age": 35, "sex": "male", "site": "lateral torso", "diagnosis": "melanoma"}
    assert reading.records[0].metadata.given() == facts
    assert reading.unused_columns == ("capture_date",)


# The ISIC Archive


def isic(number: int, **cells: str) -> Cells:
    row = dict.fromkeys(("diagnosis_1", "diagnosis_2", "diagnosis_3", "diagnosis_4", "diagnosis_5", "patient_id"), "")
    row |= {"isic_id": f"ISIC_{number:07}", "attribution": "a hospital", "copyright_license": "CC-BY"}
    row |= {"age_approx": "60", "sex": "female", "anatom_site_general": "head/neck", "image_type": "dermoscopic"}
    return row | {"lesion_id": f"IL_{number}", "clin_size_long_diam_mm": "4.5"} | cells


def test_the_most_specific_known_diagnosis_of_the_archive_is_used(tmp_path: Path) -> None:
    deep = {"diagnosis_1": "Malignant", "diagnosis_2": "Malignant melanocytic proliferations (Melanoma)"}
    rows = [
        isic(1, **deep, diagnosis_3="Melanoma Invasive", diagnosis_4="Melanoma Invasive, Nodular"),
        isic(2, diagnosis_1="Benign", diagnosis_2="Benign epidermal proliferations", diagnosis_3="Solar lentigo"),
        isic(3, **deep, diagnosis_3="Melanoma in situ", patient_id="IP_7"),
        isic(4, diagnosis_1="Benign", diagnosis_3="An unknown diagnosis"),
        isic(5),
        isic(6, **deep, diagnosis_3="Melanoma Invasive"),
    ]
    write(tmp_path / "metadata.csv", rows)
    draw(*(tmp_path / f"{row['isic_id']}.jpg" for row in rows))
    reading = read(tmp_path)
    assert [(record.metadata.diagnosis, record.group) for record in reading.records] == [
        ("nodular melanoma", "isic:IL_1"),
        ("solar lentigo", "isic:IL_2"),
        ("melanoma in situ", "isic:IP_7"),
        ("melanoma", "isic:IL_6"),
    ]
    assert reading.skipped == {"a diagnosis that is not a known skin lesion": 1, "no diagnosis": 1}
    assert reading.records[0].metadata.given() == {
        "age": 60,
        "sex": "female",
        "site": "head and neck",
        "diagnosis": "nodular melanoma",
        "image_type": "dermoscopic",
        "clin_size_long_diam_mm": 4.5,
    }


# ISIC 2019

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


def challenge(folder: Path, labels: Sequence[str]) -> Path:
    names = [f"ISIC_{number:07}" for number in range(len(labels))]
    facts = {"age_approx": "40.0", "anatom_site_general": "palms/soles", "lesion_id": "", "sex": "male"}
    write(folder / "ISIC_2019_Training_Metadata.csv", [{"image": name} | facts for name in names])
    truth = [
        {"image": name} | {column: "1.0" if column == label else "0.0" for column in CLASSES}
        for name, label in zip(names, labels, strict=True)
    ]
    write(folder / "ISIC_2019_Training_GroundTruth.csv", truth)
    draw(*(folder / "ISIC_2019_Training_Input" / f"{name}.jpg" for name in names))
    return folder


def test_the_two_tables_of_a_challenge_are_joined(tmp_path: Path) -> None:
    reading = read(challenge(tmp_path, CLASSES))
    assert reading.name == "isic2019"
    assert [record.label for record in reading.records] == ["MEL", "NEV", "BCC", "ACK", "BEK", "DF", "VASC", "SCC"]
    assert reading.skipped == {"no diagnosis": 1}
    assert reading.records[0].metadata.given() == {
        "age": 40,
        "sex": "male",
        "site": "palms and soles",
        "diagnosis": "melanoma",
    }
    assert len({record.group for record in reading.records}) == 8


@pytest.mark.parametrize("hot", ["", "MEL NV"])
def test_an_invalid_ground_truth_row_is_named(tmp_path: Path, hot: str) -> None:
    challenge(tmp_path, ["NV", "MEL"])
    path = tmp_path / "ISIC_2019_Training_GroundTruth.csv"
    lines = path.read_text().splitlines()
    cells = ",".join("1.0" if column in hot.split() else "0.0" for column in CLASSES)
    path.write_text("\n".join([*lines[:2], f"ISIC_0000001,{cells}"]) + "\n")
    with pytest.raises(UserError, match=r"GroundTruth\.csv: row 3: one class must be 1"):
        read_folder(tmp_path)


# Derm7pt


def test_derm7pt_is_read_in_its_archive_structure(tmp_path: Path) -> None:
    row = {"case_num": "1", "diagnosis": "melanoma (in situ)", "seven_point_score": "3", "location": "lower limbs"}
    row |= {"sex": "female", "clinic": "AAA/Aaa01.jpg", "derm": "AAA/Aaa02.jpg", "elevation": "flat"}
    other = row | {"case_num": "2", "diagnosis": "clark nevus", "derm": "BBB/Bbb01.jpg", "location": "genital areas"}
    write(tmp_path / "meta" / "meta.csv", [row, other])
    draw(tmp_path / "images" / "AAA" / "Aaa02.jpg", tmp_path / "images" / "BBB" / "Bbb01.jpg")
    reading = read(tmp_path)
    assert summary(reading) == [("AAA_Aaa02", "derm7pt:1", "MEL"), ("BBB_Bbb01", "derm7pt:2", "NEV")]
    facts = {"sex": "female", "site": "lower extremity", "diagnosis": "melanoma in situ"}
    assert reading.records[0].metadata.given() == facts


# Fitzpatrick17k


def test_fitzpatrick17k_is_read_without_other_conditions_and_wrong_labels(tmp_path: Path) -> None:
    row = {"md5hash": "a1", "fitzpatrick_scale": "5", "fitzpatrick_centaur": "4", "label": "basal cell carcinoma"}
    row |= {"nine_partition_label": "malignant epidermal", "three_partition_label": "malignant", "qc": "", "url": ""}
    rows = [
        row,
        row | {"md5hash": "a2", "fitzpatrick_scale": "-1", "label": "malignant melanoma"},
        row | {"md5hash": "a3", "qc": "3 Wrongly labelled"},
        row | {"md5hash": "a4", "label": "an unknown label"},
    ]
    write(tmp_path / "fitzpatrick17k.csv", rows)
    draw(*(tmp_path / "images" / f"{row['md5hash']}.jpg" for row in rows))
    reading = read(tmp_path)
    assert summary(reading) == [("a1", "fitzpatrick17k:a1", "BCC"), ("a2", "fitzpatrick17k:a2", "MEL")]
    assert [record.metadata.fitzpatrick_skin_type for record in reading.records] == ["V", None]
    assert sorted(reading.skipped.values()) == [1, 1]
    assert "qc is 3 Wrongly labelled" in reading.skipped


# Plain CSV


def test_a_plain_csv_is_grouped_by_a_single_column(tmp_path: Path) -> None:
    """A row without a patient must not be grouped by its lesion instead."""
    row = {"image": "1.jpg", "diagnosis": "nevus", "patient_id": "p1", "lesion_id": "l1"}
    write(tmp_path / "metadata.csv", [row, row | {"image": "2.jpg", "patient_id": ""}])
    draw(tmp_path / "images" / "1.jpg", tmp_path / "images" / "2.jpg")
    with pytest.raises(UserError, match="row 3, patient_id: is empty"):
        load_dataset(tmp_path)


def test_a_plain_csv_with_archive_columns_stays_plain(tmp_path: Path) -> None:
    row = {"image": "1.jpg", "diagnosis": "nevus", "isic_id": "ISIC_0", "derm": "", "seven_point_score": ""}
    write(tmp_path / "metadata.csv", [row])
    draw(tmp_path / "images" / "1.jpg")
    assert [record.image_id for record in read(tmp_path).records] == ["1"]


# columns.toml

MAPPING = """
name = "clinic"
image = "Datei"
group = ["Patient"]
partly_labelled = true

[facts]
diagnosis = "Diagnose"
age = "Alter"
"symptoms.itch" = "Juckreiz"

[spelled.diagnosis]
MM = "melanoma"
Muttermal = "nevus"

[spelled."symptoms.itch"]
ja = "yes"
nein = "no"

[passes_over]
Bemerkung = ["unscharf"]
"""


def clinic(folder: Path, mapping: str = MAPPING) -> Path:
    row = {"Datei": "1.jpg", "Patient": "p1", "Diagnose": "MM", "Alter": "70", "Juckreiz": "ja", "Bemerkung": ""}
    rows = [
        row,
        row | {"Datei": "2.jpg", "Diagnose": "Muttermal", "Juckreiz": "nein"},
        row | {"Datei": "3.jpg", "Bemerkung": "unscharf"},
        row | {"Datei": "4.jpg", "Diagnose": "Sonnenbrand"},
    ]
    write(folder / "metadata.csv", rows)
    draw(*(folder / "images" / row["Datei"] for row in rows))
    (folder / "columns.toml").write_text(mapping, "utf-8")
    return folder


def test_custom_columns_are_mapped(tmp_path: Path) -> None:
    reading = read(clinic(tmp_path))
    assert (reading.name, summary(reading)) == ("clinic", [("1", "clinic:p1", "MEL"), ("2", "clinic:p1", "NEV")])
    assert [record.metadata.symptoms.itch for record in reading.records] == ["yes", "no"]
    assert sum(reading.skipped.values()) == 2


def test_without_partly_labelled_an_unknown_diagnosis_is_a_fault(tmp_path: Path) -> None:
    folder = clinic(tmp_path, MAPPING.replace("partly_labelled = true", ""))
    with pytest.raises(UserError, match="row 5, Diagnose: not a known diagnosis"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('age = "Alter"', 'agee = "Alter"', "agee: unknown fact"),
        ('age = "Alter"', 'age = "Alterr"', "has no column Alterr"),
        ('diagnosis = "Diagnose"', "", "facts must name the diagnosis column"),
        ('image = "Datei"', "", "image: Field required"),
        ('name = "clinic"', 'name = "clinic', "not valid TOML"),
        ('name = "clinic"', 'nmae = "clinic"', "nmae: Extra inputs are not permitted"),
    ],
)
def test_an_invalid_mapping_is_reported_with_its_location(tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as raised:
        read_folder(clinic(tmp_path, MAPPING.replace(old, new)))
    assert "columns.toml" in str(raised.value)
