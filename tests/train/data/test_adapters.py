"""Reading data folders: HAM10000, PAD-UFES-20 and plain ones, and the message for each fault."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from dermnote_train.data.adapters import Reading, load_dataset, read_folder
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError

Cells = dict[str, str]
SYMPTOMS = ("itch", "grew", "hurt", "changed", "bleed", "elevation")
PAD_COLUMNS = (
    *("patient_id", "lesion_id", "smoke", "age", "gender", "fitspatrick", "region", "diameter_1", "diameter_2"),
    *("diagnostic", *SYMPTOMS, "img_id", "biopsed"),
)


def _ham(image_id: str, *, dx: str = "nv", **cells: str) -> Cells:
    row = {"lesion_id": f"L_{image_id}", "image_id": image_id, "dx": dx, "dx_type": "histo", "age": "45.0"}
    return row | {"sex": "female", "localization": "lower extremity", "dataset": "clinic"} | cells


def _pad(img_id: str, *, diagnostic: str = "BCC", **cells: str) -> Cells:
    row = dict.fromkeys(PAD_COLUMNS, "") | dict.fromkeys(SYMPTOMS, "False")
    row |= {"patient_id": f"P_{img_id}", "lesion_id": "1", "age": "70", "region": "NOSE", "biopsed": "True"}
    return row | {"img_id": img_id, "diagnostic": diagnostic} | cells


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), (200, 150, 120)).save(path)


def _folder(folder: Path, rows: Sequence[Cells], *, images: Sequence[str] = ()) -> Path:
    """A data folder with these rows; `images`: paths within it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in images:
        _picture(folder / name)
    return folder


def _ham_folder(folder: Path, rows: Sequence[Cells]) -> Path:
    return _folder(folder, rows, images=[f"images/{row['image_id']}.jpg" for row in rows])


def _pad_folder(folder: Path, rows: Sequence[Cells]) -> Path:
    return _folder(folder, rows, images=[f"images/{row['img_id']}" for row in rows])


def _plain_folder(folder: Path, rows: Sequence[Cells]) -> Path:
    """A plain folder whose first column names files in images/."""
    return _folder(folder, rows, images=[f"images/{next(iter(row.values()))}" for row in rows])


def _labels(path: Path, rows: Sequence[tuple[str, str, str, str, str]]) -> Path:
    lines = [",".join(row) for row in (("source", "image", "class8", "name", "group"), *rows)]
    path.write_text("\n".join(lines), "utf-8")
    return path


def _only(reading: Reading) -> Record:
    assert reading.faults == ()
    (record,) = reading.records
    return record


def _facts(reading: Reading) -> dict[str, object]:
    return _only(reading).metadata.given()


def _error(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        load_dataset(folder, classes="all")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def _only_fault(folder: Path, *, leaky_fields: bool = False) -> str:
    """The only fault of a folder, from the error that loading it raises."""
    with pytest.raises(UserError) as raised:
        load_dataset(folder, classes="all", leaky_fields=leaky_fields)
    message = str(raised.value)
    start, end = f"{folder / 'metadata.csv'}: 1 problem: ", f". List all: dermnote datasets check {folder}"
    assert message.startswith(start)
    assert message.endswith(end)
    return message.removeprefix(start).removesuffix(end)


# HAM10000


def test_ham10000_is_mapped_to_the_contract(tmp_path: Path) -> None:
    reading = read_folder(_ham_folder(tmp_path / "data", [_ham("T1")]))
    assert (reading.name, reading.licence, reading.synthetic) == ("ham10000", "CC BY-NC 4.0", False)
    assert reading.unused_columns == ("dx_type", "dataset")
    record = _only(reading)
    assert (record.image_id, record.image_path, record.label) == ("T1", tmp_path / "data/images/T1.jpg", "NEV")
    assert record.metadata.given() == {"age": 45, "sex": "female", "site": "lower extremity", "diagnosis": "nevus"}


@pytest.mark.parametrize(
    ("dx", "label", "diagnosis"),
    [
        ("nv", "NEV", "nevus"),
        ("mel", "MEL", "melanoma"),
        ("bkl", "BEK", "benign keratosis"),
        ("bcc", "BCC", "basal cell carcinoma"),
        ("df", "DF", "dermatofibroma"),
        ("vasc", "VASC", "vascular lesion"),
        ("akiec", "AKIEC", "actinic keratosis or intraepithelial carcinoma"),
    ],
)
def test_every_dx_of_ham10000_has_a_class(tmp_path: Path, dx: str, label: str, diagnosis: str) -> None:
    record = _only(read_folder(_ham_folder(tmp_path / "data", [_ham("T1", dx=dx)])))
    assert (record.label, record.metadata.diagnosis) == (label, diagnosis)


def test_unknown_values_of_ham10000_are_not_facts(tmp_path: Path) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1", age="", sex="unknown", localization="unknown")])
    assert _facts(read_folder(folder)) == {"diagnosis": "nevus"}


def test_images_of_one_ham10000_lesion_are_one_group(tmp_path: Path) -> None:
    rows = [_ham("T1", lesion_id="L1"), _ham("T2", lesion_id="L1"), _ham("T3", lesion_id="L2")]
    groups = [record.group for record in read_folder(_ham_folder(tmp_path / "data", rows)).records]
    assert groups == ["ham10000:L1", "ham10000:L1", "ham10000:L2"]


def test_akiec_is_not_assigned_to_one_of_the_papers_classes(tmp_path: Path) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1", dx="akiec"), _ham("T2"), _ham("T3", dx="mel")])
    paper = load_dataset(folder)
    assert paper.classes == ("NEV", "MEL")
    assert [record.image_id for record in paper.records] == ["T2", "T3"]
    assert load_dataset(folder, classes="all").classes == ("NEV", "MEL", "AKIEC")


# The labels file


def test_a_labels_file_next_to_the_folder_splits_akiec_and_sets_the_groups(tmp_path: Path) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1", dx="akiec"), _ham("T2", dx="akiec"), _ham("T3")])
    path = _labels(
        tmp_path / "labels8.csv",
        [
            ("ham10000", "T1.jpg", "3", "ACK", "ham10000:one"),
            ("ham10000", "T2.jpg", "7", "SCC", "ham10000:two"),
            ("ham10000", "T3.jpg", "2", "NEV", "ham10000:one"),
            ("elsewhere", "T3.jpg", "5", "MEL", "elsewhere:three"),
        ],
    )
    reading = read_folder(folder)
    assert reading.labels == path
    assert [(r.label, r.metadata.diagnosis, r.group) for r in reading.records] == [
        ("ACK", "actinic keratosis", "ham10000:one"),
        ("SCC", "squamous cell carcinoma", "ham10000:two"),
        ("NEV", "nevus", "ham10000:one"),
    ]


def test_the_labels_file_is_found_from_inside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1", dx="akiec")])
    _labels(tmp_path / "labels8.csv", [("ham10000", "T1.jpg", "3", "ACK", "ham10000:one")])
    monkeypatch.chdir(folder)
    assert _only(read_folder(Path())).label == "ACK"


def test_an_image_missing_from_the_labels_file_keeps_its_label(tmp_path: Path) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1", dx="akiec")])
    _labels(tmp_path / "labels8.csv", [("ham10000", "T9.jpg", "3", "ACK", "ham10000:one")])
    record = _only(read_folder(folder))
    assert (record.label, record.group) == ("AKIEC", "ham10000:L_T1")


@pytest.mark.parametrize(("dx", "other"), [("mel", "NEV"), ("akiec", "MEL")])
def test_a_labels_file_that_contradicts_the_table_is_a_fault(tmp_path: Path, dx: str, other: str) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1", dx=dx)])
    _labels(tmp_path / "labels8.csv", [("ham10000", "T1.jpg", "2", other, "ham10000:one")])
    assert _only_fault(folder) == f"row 2, dx: is {dx.upper()}, but {other} in the labels file"


def test_a_labels_file_without_its_columns_is_rejected(tmp_path: Path) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1")])
    (folder / "labels8.csv").write_text("image,name\nT1.jpg,NEV\n", "utf-8")
    assert _error(folder) == (
        f"{folder / 'labels8.csv'}: no column source, class8, group; a labels file has "
        "source, image, class8, name, group"
    )


@pytest.mark.parametrize("row", ["ham10000", "ham10000,T1.jpg,2,NEV,", "ham10000,,2,NEV,ham10000:one"])
def test_a_labels_row_without_image_name_or_group_is_rejected(tmp_path: Path, row: str) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1")])
    labels = folder / "labels8.csv"
    labels.write_text(f"source,image,class8,name,group\nham10000,T2.jpg,2,NEV,ham10000:L2\n{row}\n", "utf-8")
    assert _error(folder) == f"{labels}: row 3: every row needs values for image, name (the class code) and group"


def test_a_missing_labels_file_is_an_error(tmp_path: Path) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1")])
    with pytest.raises(UserError, match=r"gone\.csv: cannot be read \(.*\); check its path and permissions"):
        load_dataset(folder, labels=tmp_path / "gone.csv")


# PAD-UFES-20


def test_pad_ufes_20_is_mapped_to_the_contract(tmp_path: Path) -> None:
    symptoms = {"itch": "True", "grew": "False", "hurt": "UNK", "changed": "UNK", "bleed": "TRUE", "elevation": "False"}
    row = _pad("T1.png", gender="FEMALE", fitspatrick="3.0", diameter_1="6.0", diameter_2="9.0", **symptoms)
    reading = read_folder(_pad_folder(tmp_path / "data", [row]))
    assert (reading.name, reading.licence, reading.group_column) == ("pad_ufes_20", "CC BY 4.0", "patient_id")
    assert {"biopsed", "gender", "fitspatrick", "diameter_1"} <= set(reading.unused_columns)
    record = _only(reading)
    assert (record.image_id, record.label, record.group) == ("T1", "BCC", "pad_ufes_20:P_T1.png")
    assert record.metadata.given() == {
        "age": 70,
        "site": "nose",
        "diagnosis": "basal cell carcinoma",
        "symptoms": {"itch": "yes", "grew": "no", "bleed": "yes", "elevation": "no"},
    }


def test_facts_that_reveal_the_diagnosis_are_dropped_by_default(tmp_path: Path) -> None:
    row = _pad("T1.png", gender="FEMALE", fitspatrick="3.0", diameter_1="6.5", diameter_2="9.0")
    folder = _pad_folder(tmp_path / "data", [row])
    leaky = {"sex": "female", "fitzpatrick_skin_type": "III", "clin_size_long_diam_mm": 9}
    assert not leaky.keys() & _facts(read_folder(folder)).keys()
    assert leaky.items() <= _facts(read_folder(folder, leaky_fields=True)).items()


@pytest.mark.parametrize(("diameters", "size"), [(("7", "0.0"), 7), (("", "4.5"), 4.5), (("0", "0"), None)])
def test_a_diameter_of_zero_was_not_measured(tmp_path: Path, diameters: tuple[str, str], size: float | None) -> None:
    row = _pad("T1.png", diameter_1=diameters[0], diameter_2=diameters[1])
    reading = read_folder(_pad_folder(tmp_path / "data", [row]), leaky_fields=True)
    assert _only(reading).metadata.clin_size_long_diam_mm == size


@pytest.mark.parametrize("diameter", ["wide", "6 mm", "²", "900", "-3"])
def test_an_invalid_diameter_is_a_fault_of_its_column(tmp_path: Path, diameter: str) -> None:
    folder = _pad_folder(tmp_path / "data", [_pad("T1.png", diameter_1=diameter, diameter_2="4.0")])
    assert _only_fault(folder, leaky_fields=True).startswith("row 2, diameter_1: ")
    assert load_dataset(folder, classes="all").classes == ("BCC",)


@pytest.mark.parametrize(
    ("diagnostic", "label", "diagnosis"),
    [
        ("BCC", "BCC", "basal cell carcinoma"),
        ("NEV", "NEV", "nevus"),
        ("ACK", "ACK", "actinic keratosis"),
        ("SEK", "BEK", "seborrheic keratosis"),
        ("MEL", "MEL", "melanoma"),
        ("SCC", "SCC", "squamous cell carcinoma"),
    ],
)
def test_every_diagnostic_of_pad_ufes_20_has_a_class(
    tmp_path: Path, diagnostic: str, label: str, diagnosis: str
) -> None:
    record = _only(read_folder(_pad_folder(tmp_path / "data", [_pad("T1.png", diagnostic=diagnostic)])))
    assert (record.label, record.metadata.diagnosis) == (label, diagnosis)


def test_all_lesions_of_a_pad_ufes_20_patient_are_one_group(tmp_path: Path) -> None:
    rows = [
        _pad("T1.png", patient_id="P1", lesion_id="1"),
        _pad("T2.png", patient_id="P1", lesion_id="2", diagnostic="NEV"),
        _pad("T3.png", patient_id="P2", lesion_id="3"),
    ]
    groups = [record.group for record in read_folder(_pad_folder(tmp_path / "data", rows)).records]
    assert groups == ["pad_ufes_20:P1", "pad_ufes_20:P1", "pad_ufes_20:P2"]


def test_an_image_saved_in_another_format_is_found(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data", [_pad("T1.png")], images=["images/T1.jpg"])
    assert _only(read_folder(folder)).image_path == folder / "images/T1.jpg"


# A plain CSV and its folder


def test_a_plain_folder_is_read_with_all_of_its_facts(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "diagnosis": "melanocytic nevus", "age": "31.5", "sex": "m", "site": "ARM"}
    row |= {"fitzpatrick_skin_type": "2", "clin_size_long_diam_mm": "5", "family_hx_mm": "no", "itch": "yes"}
    row |= {"symptoms.grew": "True", "border": "blurred", "findings.colours": "tan; black|tan", "remark": "x"}
    reading = read_folder(_plain_folder(tmp_path / "my data!", [row]))
    assert (reading.name, reading.licence) == ("my_data", "as stated by its owner")
    assert reading.unused_columns == ("remark",)
    assert _facts(reading) == {
        "age": 31.5,
        "sex": "male",
        "site": "arm",
        "diagnosis": "nevus",
        "fitzpatrick_skin_type": "II",
        "clin_size_long_diam_mm": 5,
        "family_hx_mm": False,
        "symptoms": {"itch": "yes", "grew": "yes"},
        "findings": {"border": "indistinct", "colours": ["light brown", "black"]},
    }


def test_the_granularity_of_a_diagnosis_is_preserved(tmp_path: Path) -> None:
    record = _only(
        read_folder(_plain_folder(tmp_path / "data", [{"image": "a.jpg", "label": "superficial spreading melanoma"}]))
    )
    assert (record.label, record.metadata.diagnosis) == ("MEL", "superficial spreading melanoma")


@pytest.mark.parametrize(
    ("columns", "group"),
    [
        (("group", "patient_id", "lesion_id"), "data:group-1"),
        (("patient_id", "lesion_id"), "data:patient_id-1"),
        (("lesion_id",), "data:lesion_id-1"),
        ((), "data:a"),
    ],
)
def test_a_plain_folder_is_grouped_by_its_broadest_column(tmp_path: Path, columns: tuple[str, ...], group: str) -> None:
    row = {"image": "a.jpg", "diagnosis": "nevus"} | {name: f"{name}-1" for name in columns}
    assert _only(read_folder(_plain_folder(tmp_path / "data", [row]))).group == group


@pytest.mark.parametrize(
    ("cell", "file"),
    [
        ("a.jpg", "images/a.jpg"),
        ("a.jpg", "a.jpg"),
        ("a.jpg", "part_2/a.jpg"),
        ("a", "images/a.jpeg"),
        ("a", "images/a.PNG"),
        ("a.jpg", "images/a.webp"),
        ("sub/a.jpg", "images/sub/a.jpg"),
        ("sub/deep/a.jpg", "sub/deep/a.jpg"),
    ],
)
def test_images_are_found_in_all_usual_places(tmp_path: Path, cell: str, file: str) -> None:
    folder = _folder(tmp_path / "data", [{"image": cell, "diagnosis": "nevus"}], images=[file])
    assert _only(read_folder(folder)).image_path == folder / file


def test_names_that_differ_after_a_dot_are_different_images(tmp_path: Path) -> None:
    rows = [{"image": name, "diagnosis": "nevus"} for name in ("lesion.v1", "lesion.v2")]
    folder = _folder(tmp_path / "data", rows, images=["images/lesion.v1.jpg", "images/lesion.v2.jpg"])
    reading = read_folder(folder)
    assert reading.faults == ()
    assert [record.image_id for record in reading.records] == ["lesion_v1", "lesion_v2"]


def test_the_images_folder_takes_precedence(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "diagnosis": "nevus"}]
    folder = _folder(tmp_path / "data", rows, images=["a.jpg", "images/a.jpg", "archive/a.jpg"])
    assert _only(read_folder(folder)).image_path == folder / "images/a.jpg"


def test_a_spreadsheet_csv_is_read_completely(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data", [{"image": "", "diagnosis": ""}], images=["images/a,1.jpg", "images/b.jpg"])
    (folder / "metadata.csv").write_bytes(
        b'\xef\xbb\xbfimage;diagnosis;remark\r\n"a,1.jpg";nevus;"red; ""scaly"""\r\n\r\n;;\r\nb.jpg;melanoma;\r\n'
    )
    reading = read_folder(folder)
    assert reading.faults == ()
    assert [(r.image_path.name, r.label) for r in reading.records] == [("a,1.jpg", "NEV"), ("b.jpg", "MEL")]


def test_synthetic_rows_make_a_synthetic_data_set(tmp_path: Path) -> None:
    rows = [{"image": f"{name}.jpg", "diagnosis": "nevus", "synthetic": "True"} for name in "ab"]
    reading = read_folder(_plain_folder(tmp_path / "data", rows))
    assert (reading.synthetic, reading.licence, reading.title) == (True, "CC0-1.0", "drawn by a program")


def test_drawn_and_real_images_cannot_be_mixed(tmp_path: Path) -> None:
    rows = [
        {"image": f"{name}.jpg", "diagnosis": "nevus", "synthetic": flag} for name, flag in (("a", "yes"), ("b", ""))
    ]
    folder = _plain_folder(tmp_path / "data", rows)
    assert _error(folder) == (
        f"{folder / 'metadata.csv'}: column synthetic is true in some rows only; keep drawn and real images apart"
    )


# Classes and limits


def test_a_folder_without_the_papers_classes_suggests_classes_all(tmp_path: Path) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1", dx="df")])
    with pytest.raises(UserError) as raised:
        load_dataset(folder)
    assert str(raised.value) == (
        f"{folder / 'metadata.csv'}: no row has one of the classes BEK, NEV, ACK, BCC, MEL; "
        "use --classes all for every diagnosis"
    )
    assert load_dataset(folder, classes="all").classes == ("DF",)


def test_a_limit_selects_a_balanced_part_by_seed(tmp_path: Path) -> None:
    rows = [_ham(f"N{number}") for number in range(6)] + [_ham(f"M{number}", dx="mel") for number in range(3)]
    folder = _ham_folder(tmp_path / "data", rows)
    parts = [load_dataset(folder, limit=4, seed=seed).records for seed in (1, 1, 2)]
    assert sorted(record.label for record in parts[0]) == ["MEL", "MEL", "NEV", "NEV"]
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]


def test_a_class_left_without_images_by_a_limit_is_dropped(tmp_path: Path) -> None:
    dataset = load_dataset(_ham_folder(tmp_path / "data", [_ham("T1"), _ham("T2", dx="mel")]), limit=1)
    assert dataset.classes == tuple(record.label for record in dataset.records)


# Faults


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    assert _error(folder) == f"{folder}: no such folder; give a folder with metadata.csv and images/"


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data", [{"image": "a.jpg", "age": "3"}])
    assert _error(folder).startswith(f"{folder / 'metadata.csv'}: no column diagnosis; read as plain CSV")


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ({"age": "sixty"}, "age: must be a number"),
        ({"age": "130"}, "age: Input should be less than or equal to 120"),
        ({"age": "-1"}, "age: Input should be greater than or equal to 0"),
        ({"age": "inf"}, "age: must be a finite number"),
        ({"sex": "other-value"}, "sex: not a known sex; nearest known: male, female"),
        ({"site": "bakc"}, "site: not a known site; nearest known: back"),
        ({"diagnosis": "melanom"}, "diagnosis: not a known diagnosis; nearest known: melanoma"),
        ({"diagnosis": ""}, "diagnosis: is empty; every row needs a diagnosis"),
        ({"diagnosis": "unknown"}, "diagnosis: is empty; every row needs a diagnosis"),
        ({"itch": "sometimes"}, "itch: not a known symptom; nearest known: yes, no"),
        ({"colours": "red;mauve"}, "colours: not a known colours; nearest known: white, red"),
        ({"benign_malignant": "malignant"}, "row: diagnosis is benign, but benign_malignant says otherwise"),
        ({"patient_id": ""}, "patient_id: is empty; the data are split by it, so every row needs a value"),
        ({"image": ""}, "image: is empty"),
    ],
)
def test_an_invalid_cell_is_reported_by_row_and_column(tmp_path: Path, cells: Cells, fault: str) -> None:
    right = {"image": "a.jpg", "patient_id": "p1", "diagnosis": "nevus", "age": "40", "sex": "male", "site": "back"}
    right |= {"itch": "no", "colours": "red", "benign_malignant": ""}
    wrong = right | {"image": "b.jpg"} | cells
    folder = _folder(tmp_path / "data", [right, wrong], images=["images/a.jpg", "images/b.jpg"])
    assert _only_fault(folder).startswith(f"row 3, {fault}")


def test_an_invalid_value_is_never_repeated(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "diagnosis": "Jane Roe", "age": "Jane Roe", "sex": "Jane Roe", "site": "Jane Roe"}
    message = _error(_plain_folder(tmp_path / "data", [row]))
    assert "4 problems" in message
    assert "Jane" not in message


def test_an_invalid_cell_is_reported_by_the_data_sets_own_column(tmp_path: Path) -> None:
    ham = _ham_folder(tmp_path / "ham", [_ham("T1", localization="somewhere")])
    assert _only_fault(ham).startswith("row 2, localization: not a known site; nearest known: ")
    pad = _pad_folder(tmp_path / "pad", [_pad("T1.png", region="somewhere")])
    assert _only_fault(pad).startswith("row 2, region: not a known site; nearest known: ")


def test_a_row_whose_image_is_missing_is_a_fault(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data", [_ham("T1"), _ham("T2")], images=["images/T1.jpg"])
    assert _only_fault(folder) == "row 3, image_id: no file 'T2' in images/, next to the CSV or in another subfolder"


@pytest.mark.parametrize("name", ["x" * 300, "./" + "x" * 300, "../outside.jpg", "/outside.jpg", ".", "a\x00b.jpg"])
def test_an_image_name_outside_the_folder_is_a_fault(tmp_path: Path, name: str) -> None:
    _picture(tmp_path / "outside.jpg")
    folder = _folder(tmp_path / "data", [{"image": name, "diagnosis": "nevus"}])
    assert _only_fault(folder) == f"row 2, image: no file {name!r} in images/, next to the CSV or in another subfolder"


@pytest.mark.parametrize("content", [b"", b"this is no picture", b"\xff\xd8\xff\xe0", b"%PDF-1.7 "])
def test_an_invalid_image_is_a_fault(tmp_path: Path, content: bytes) -> None:
    folder = _ham_folder(tmp_path / "data", [_ham("T1"), _ham("T2")])
    (folder / "images" / "T2.jpg").write_bytes(content)
    fault = _only_fault(folder)
    assert fault.startswith("row 3, image_id: T2.jpg is not a usable image (")
    assert fault.endswith("; replace the file")


@pytest.mark.parametrize("again", ["a.jpg", "a", "a.png"])
def test_a_duplicate_image_is_a_fault(tmp_path: Path, again: str) -> None:
    rows = [{"image": name, "diagnosis": "nevus"} for name in ("a.jpg", "b.jpg", again)]
    folder = _folder(tmp_path / "data", rows, images=["images/a.jpg", "images/b.jpg"])
    assert _only_fault(folder) == "row 4, image: same image as row 2; remove one"


def test_a_row_with_too_few_cells_is_a_fault(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data", [{"image": "a.jpg", "diagnosis": "nevus"}], images=["images/a.jpg"])
    with (folder / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write("a.jpg\n")
    assert _only_fault(folder) == "row 3, row: more or fewer cells than the header has columns; check its separators"


def test_all_faults_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    rows = [_ham(f"T{number}", age="old") for number in range(5)] + [_ham("T9")]
    folder = _ham_folder(tmp_path / "data", rows)
    message = _error(folder)
    assert message.startswith(f"{folder / 'metadata.csv'}: 5 problems: row 2, age: must be a number; row 3, age: ")
    assert message.endswith(f"; row 4, age: must be a number; and 2 more. List all: dermnote datasets check {folder}")
    reading = read_folder(folder)
    assert [fault.row for fault in reading.faults] == [2, 3, 4, 5, 6]
    assert [record.image_id for record in reading.records] == ["T9"]


def test_every_fault_of_a_row_is_reported(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data", [_ham("T1", age="old", sex="?", lesion_id="")])
    faults = read_folder(folder).faults
    assert sorted(fault.column for fault in faults) == ["age", "image_id", "lesion_id", "sex"]
