"""Findings of a data set: measured, written, added to the records; invalid files are rejected."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dermnote_contracts.metadata import Findings, LesionMetadata
from dermnote_train.data.adapters import load_dataset
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.records import Record
from dermnote_train.errors import UserError
from dermnote_train.findings.measures import COLOURS
from dermnote_train.findings.table import (
    COLUMNS,
    ImageFindings,
    draw_sheet,
    measure_dataset,
    measure_image,
    with_findings,
    write_findings,
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, ...]:
    folder = draw_dataset(tmp_path_factory.mktemp("findings") / "drawn", count=30)
    return load_dataset(folder).records


@pytest.fixture(scope="module")
def measured(records: tuple[Record, ...]) -> tuple[ImageFindings, ...]:
    return measure_dataset(records)


def test_a_data_set_is_measured_in_order_like_each_image_alone(
    records: tuple[Record, ...], measured: tuple[ImageFindings, ...]
) -> None:
    assert [one.image_id for one in measured] == [record.image_id for record in records]
    for record, one in list(zip(records, measured, strict=True))[::7]:
        with Image.open(record.image_path) as image:
            assert measure_image(image, image_id=record.image_id) == one


def test_most_drawn_lesions_are_found_and_the_others_have_a_reason(measured: tuple[ImageFindings, ...]) -> None:
    with_measures = [one for one in measured if one.measures is not None]
    assert len(with_measures) >= 0.7 * len(measured)
    for one in measured:
        assert (one.why_not is None) == (one.measures is not None)
        assert one.findings == (one.measures.findings() if one.measures else Findings())


def test_written_findings_are_added_to_the_records(
    records: tuple[Record, ...], measured: tuple[ImageFindings, ...], tmp_path: Path
) -> None:
    write_findings(tmp_path / "findings.csv", measured)
    back = with_findings(records, tmp_path / "findings.csv")
    assert [record.metadata.findings for record in back] == [one.findings for one in measured]
    assert [replace(record, metadata=LesionMetadata()) for record in back] == [
        replace(record, metadata=LesionMetadata()) for record in records
    ]
    first = (tmp_path / "findings.csv").read_text().splitlines()[0].split(",")
    assert first == list(COLUMNS)
    assert len(first) == 9 + len(COLOURS)


def test_findings_given_by_the_data_set_take_precedence(records: tuple[Record, ...], tmp_path: Path) -> None:
    one = replace(records[0], metadata=LesionMetadata(findings=Findings(border="mixed", structures=["dots"])))
    write_findings(
        tmp_path / "findings.csv",
        [ImageFindings(one.image_id, Findings(asymmetry="symmetric", border="sharp", colours=["red", "light brown"]))],
    )
    (joined,) = with_findings([one], tmp_path / "findings.csv")
    assert joined.metadata.findings == Findings(
        asymmetry="symmetric", border="mixed", colours=["red", "light brown"], structures=["dots"]
    )


def test_records_missing_from_the_file_are_counted(records: tuple[Record, ...], tmp_path: Path) -> None:
    write_findings(tmp_path / "findings.csv", [ImageFindings(records[0].image_id, Findings())])
    with pytest.raises(UserError, match=f"no findings for 29 images \\(first {records[1].image_id}\\)"):
        with_findings(records, tmp_path / "findings.csv")


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"image_id,asymmetry\na,symmetric\n",
        b"image_id,asymmetry,border,colours\na,lopsided,,\n",
        b"image_id,asymmetry,border,colours\na\n",
        b"\xff\xfe\x00",
    ],
    ids=["no file", "empty", "no columns", "no term", "a short row", "no text"],
)
def test_an_invalid_findings_file_is_rejected(
    records: tuple[Record, ...], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "findings.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"findings\.csv: not a readable findings file"):
        with_findings(records, path)


def test_a_contact_sheet_has_a_tile_per_record(records: tuple[Record, ...], tmp_path: Path) -> None:
    draw_sheet(tmp_path / "sheet.png", records[:8])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 6 * 224
        assert sheet.height > 2 * 224
        green = sum(count for count, colour in sheet.convert("RGB").getcolors(1 << 24) or [] if colour == (0, 230, 60))
    assert green > 500
