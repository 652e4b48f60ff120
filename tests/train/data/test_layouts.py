"""Recognition of layouts by their header, and missing columns."""

from pathlib import Path

import pytest

from dermnote_train.data.layouts import HAM10000, PAD_UFES_20, Layout, layout_of
from dermnote_train.errors import UserError

TABLE = Path("/data/my lesions/metadata.csv")
HAM_HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
PAD_HEADER = (
    "patient_id,lesion_id,smoke,age,gender,fitspatrick,region,diameter_1,diameter_2,diagnostic,"
    "itch,grew,hurt,changed,bleed,elevation,img_id,biopsed"
)


def _layout(header: str) -> Layout:
    return layout_of(TABLE, tuple(header.split(",")))


def _without(header: str, *missing: str) -> str:
    return ",".join(name for name in header.split(",") if name not in missing)


def test_each_layout_is_recognised_by_its_header() -> None:
    assert _layout(HAM_HEADER) is HAM10000
    assert _layout(PAD_HEADER) is PAD_UFES_20
    plain = _layout("image,diagnosis,age")
    assert (plain.name, plain.title) == ("my lesions", "plain CSV and image folder")


def test_column_order_and_extra_columns_do_not_matter() -> None:
    assert _layout(",".join(["remark", *reversed(HAM_HEADER.split(","))])) is HAM10000
    assert _layout(",".join([*reversed(PAD_HEADER.split(",")), "remark"])) is PAD_UFES_20


@pytest.mark.parametrize("missing", ["lesion_id", "age", "sex", "localization"])
def test_a_missing_column_of_ham10000_is_named(missing: str) -> None:
    with pytest.raises(UserError) as raised:
        _layout(_without(HAM_HEADER, missing))
    assert str(raised.value) == (
        f"{TABLE}: no column {missing}; read as HAM10000 (dermoscopy), it needs image or image_id, lesion_id, dx, age, "
        "sex, localization"
    )


@pytest.mark.parametrize("missing", ["patient_id", "age", "region", "itch", "elevation"])
def test_a_missing_column_of_pad_ufes_20_is_named(missing: str) -> None:
    with pytest.raises(UserError, match=f"no column {missing}; read as PAD-UFES-20"):
        _layout(_without(PAD_HEADER, missing))


def test_all_missing_columns_are_named() -> None:
    with pytest.raises(UserError, match="no column image or image_id, lesion_id, sex; read as HAM10000"):
        _layout(_without(HAM_HEADER, "image_id", "lesion_id", "sex"))


def test_the_leaky_columns_of_pad_ufes_20_are_optional() -> None:
    assert _layout(_without(PAD_HEADER, "gender", "fitspatrick", "diameter_1", "diameter_2")) is PAD_UFES_20


def test_a_plain_csv_needs_an_image_and_a_diagnosis() -> None:
    with pytest.raises(UserError) as raised:
        _layout("Picture,class")
    assert str(raised.value) == (
        f"{TABLE}: no column image or image_id or img_id or filename, diagnosis; read as plain CSV and image folder, "
        "it needs image or image_id or img_id or filename, diagnosis"
    )


@pytest.mark.parametrize("image", ["image", "image_id", "img_id", "filename"])
def test_a_plain_csv_may_use_several_names_for_its_image_column(image: str) -> None:
    assert _layout(f"{image},diagnosis").diagnosis == "diagnosis"


def test_label_replaces_a_missing_diagnosis_column() -> None:
    assert _layout("image,label").diagnosis == "label"
    assert _layout("image,label,diagnosis").diagnosis == "diagnosis"
