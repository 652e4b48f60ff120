"""CSV dialects, and the one-line errors of unreadable tables."""

from pathlib import Path

import pytest

from dermnote_train.data.tables import find_table, read_table
from dermnote_train.errors import UserError


def _rows(path: Path) -> list[dict[str, str]]:
    return [dict(row.cells) for row in read_table(path).rows]


def _error(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_table(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        b"image,site\na.jpg,back\nb.jpg,face\n",
        b"\xef\xbb\xbfimage,site\na.jpg,back\nb.jpg,face\n",
        b"image,site\r\na.jpg,back\r\nb.jpg,face\r\n",
        b"image,site\ra.jpg,back\rb.jpg,face\r",
        b"image;site\na.jpg;back\nb.jpg;face",
        b"image\tsite\na.jpg\tback\nb.jpg\tface",
        b' image , site \n a.jpg , back\nb.jpg,"face"\n',
        b"image,site\n\na.jpg,back\n,\n   ,\nb.jpg,face\n\n\n",
    ],
    ids=["plain", "BOM", "CRLF", "CR", "semicolons", "tabs", "spaces and quotes", "empty lines"],
)
def test_every_csv_dialect_gives_the_same_table(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "metadata.csv"
    path.write_bytes(text)
    assert read_table(path).columns == ("image", "site")
    assert _rows(path) == [{"image": "a.jpg", "site": "back"}, {"image": "b.jpg", "site": "face"}]


def test_quoted_cells_keep_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_bytes(b'image,remark\na.jpg,"red, ""scaly""\r\nand sore"\n')
    assert _rows(path) == [{"image": "a.jpg", "remark": 'red, "scaly"\nand sore'}]


def test_rows_are_numbered_as_a_spreadsheet_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text('image,remark\na.jpg,"two\nlines"\n\nb.jpg,\n', "utf-8")
    assert [row.number for row in read_table(path).rows] == [2, 4]


def test_a_row_that_does_not_match_the_header_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text("image,site\na.jpg\nb.jpg,back\nc.jpg,back,12\n", "utf-8")
    assert [row.ragged for row in read_table(path).rows] == [True, False, True]


@pytest.mark.parametrize("text", [b"", b"\n\n", b"image,site", b"image,site\n", b"image,site\n\n,\n"], ids=repr)
def test_a_csv_without_rows_is_rejected(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "metadata.csv"
    path.write_bytes(text)
    assert _error(path) == f"{path}: no rows; it needs a header and one row per image"


def test_another_encoding_is_rejected_with_the_byte_position(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_bytes("image,site\na.jpg,Rücken\n".encode("latin-1"))
    assert _error(path) == f"{path}: not UTF-8 text (byte 18); save it as CSV in UTF-8"


def test_an_unterminated_quote_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text('image,site\na.jpg,"back\n', "utf-8")
    assert _error(path).startswith(f"{path}: not a valid CSV (")


def test_a_duplicate_column_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text("image,age,age\na.jpg,1,2\n", "utf-8")
    assert _error(path) == f"{path}: duplicate column age in the header; rename one"


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    assert _error(tmp_path / "gone.csv").startswith(f"{tmp_path / 'gone.csv'}: cannot be read (")


def test_the_table_is_metadata_csv_or_the_only_csv(tmp_path: Path) -> None:
    (tmp_path / "labels8.csv").touch()
    (tmp_path / "HAM10000_metadata.csv").touch()
    assert find_table(tmp_path) == tmp_path / "HAM10000_metadata.csv"
    (tmp_path / "metadata.csv").touch()
    assert find_table(tmp_path) == tmp_path / "metadata.csv"


def test_a_folder_without_an_unambiguous_table_is_an_error(tmp_path: Path) -> None:
    empty, images, two = (tmp_path / name for name in ("empty", "images", "two"))
    for folder in (empty, images, two):
        folder.mkdir()
    (images / "a.jpg").touch()
    (two / "a.csv").touch()
    (two / "b.csv").touch()
    expected = {
        tmp_path / "gone": "no such folder; give a folder with metadata.csv and images/",
        images / "a.jpg": "no such folder; give a folder with metadata.csv and images/",
        empty: "the folder is empty; it needs metadata.csv and images/",
        images: "contains no CSV; it needs metadata.csv with a column image, and images/",
        two: "2 CSV files (a.csv, b.csv); rename the right one to metadata.csv",
    }
    for folder, reason in expected.items():
        with pytest.raises(UserError) as raised:
            find_table(folder)
        assert str(raised.value) == f"{folder}: {reason}"
