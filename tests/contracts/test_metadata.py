"""LesionMetadata: labels of the public data sets, what counts as not given, ages as given, and refusals."""

from typing import Any

import pytest
from pydantic import ValidationError

from dermnote_contracts.asgi import field_errors
from dermnote_contracts.metadata import LesionMetadata, normalise_known, walk
from dermnote_contracts.problems import FieldError

HAM10000 = {
    "nv": "nevus",
    "bkl": "benign keratosis",
    "mel": "melanoma",
    "bcc": "basal cell carcinoma",
    "akiec": "actinic keratosis or intraepithelial carcinoma",
    "vasc": "vascular lesion",
    "df": "dermatofibroma",
}
PAD_UFES_20 = {
    "NEV": "nevus",
    "SEK": "seborrheic keratosis",
    "ACK": "actinic keratosis",
    "BCC": "basal cell carcinoma",
    "SCC": "squamous cell carcinoma",
    "MEL": "melanoma",
}
ISIC_2019 = {
    "MEL": "melanoma",
    "NV": "nevus",
    "BCC": "basal cell carcinoma",
    "AK": "actinic keratosis",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
    "SCC": "squamous cell carcinoma",
}
DERM7PT = {
    "basal cell carcinoma": "basal cell carcinoma",
    "blue nevus": "blue nevus",
    "clark nevus": "clark nevus",
    "combined nevus": "combined nevus",
    "congenital nevus": "congenital nevus",
    "dermal nevus": "dermal nevus",
    "dermatofibroma": "dermatofibroma",
    "lentigo": "lentigo",
    "melanoma": "melanoma",
    "melanoma (in situ)": "melanoma in situ",
    "melanoma (less than 0.76 mm)": "melanoma less than 0.76 mm",
    "melanoma (0.76 to 1.5 mm)": "melanoma 0.76 to 1.5 mm",
    "melanoma (more than 1.5 mm)": "melanoma more than 1.5 mm",
    "melanoma metastasis": "melanoma metastasis",
    "melanosis": "melanosis",
    "recurrent nevus": "recurrent nevus",
    "reed or spitz nevus": "reed or spitz nevus",
    "seborrheic keratosis": "seborrheic keratosis",
    "vascular lesion": "vascular lesion",
}
LABELS = [
    pytest.param(label, term, id=f"{name}-{label}")
    for name, labels in {
        "HAM10000": HAM10000,
        "PAD-UFES-20": PAD_UFES_20,
        "ISIC-2019": ISIC_2019,
        "Derm7pt": DERM7PT,
    }.items()
    for label, term in labels.items()
]
SITES = {
    # HAM10000
    "abdomen": "abdomen",
    "acral": "acral skin",
    "back": "back",
    "chest": "chest",
    "ear": "ear",
    "face": "face",
    "foot": "foot",
    "genital": "genital area",
    "hand": "hand",
    "lower extremity": "lower extremity",
    "neck": "neck",
    "scalp": "scalp",
    "trunk": "trunk",
    "upper extremity": "upper extremity",
    # PAD-UFES-20
    "ARM": "arm",
    "FOREARM": "forearm",
    "NOSE": "nose",
    "THIGH": "thigh",
    "LIP": "lip",
    # ISIC 2019
    "anterior torso": "anterior torso",
    "posterior torso": "posterior torso",
    "lateral torso": "lateral torso",
    "head/neck": "head and neck",
    "palms/soles": "palms and soles",
    "oral/genital": "oral or genital mucosa",
    # Derm7pt
    "lower limbs": "lower extremity",
    "upper limbs": "upper extremity",
    "head neck": "head and neck",
    "buttocks": "buttocks",
    "genital areas": "genital area",
}
NOT_GIVEN = [None, "", "  ", "unknown", "UNK", "Unknown", "n/a", "NaN", float("nan"), "None", "null", "not given"]


def refusal(**metadata: Any) -> list[FieldError]:
    """The errors of metadata that must be refused."""
    with pytest.raises(ValidationError) as caught:
        LesionMetadata.model_validate(metadata)
    return field_errors(caught.value.errors())


@pytest.mark.parametrize(("label", "term"), LABELS)
def test_a_data_sets_diagnosis_label_becomes_its_term(label: str, term: str) -> None:
    assert LesionMetadata(diagnosis=label).diagnosis == term


@pytest.mark.parametrize(("label", "term"), SITES.items())
def test_a_data_sets_site_label_becomes_its_term(label: str, term: str) -> None:
    assert LesionMetadata(site=label).site == term


@pytest.mark.parametrize(("label", "term"), [("MALE", "male"), ("Female", "female"), ("m", "male"), ("F ", "female")])
def test_sex_is_read_in_any_usual_spelling(label: str, term: str) -> None:
    assert LesionMetadata(sex=label).sex == term


@pytest.mark.parametrize(("label", "term"), [(3, "III"), ("2.0", "II"), (1.0, "I"), ("vi", "VI")])
def test_a_skin_type_comes_as_a_number_or_a_numeral(label: object, term: str) -> None:
    assert LesionMetadata.model_validate({"fitzpatrick_skin_type": label}).fitzpatrick_skin_type == term


@pytest.mark.parametrize(
    ("value", "answer"), [(True, "yes"), ("True", "yes"), ("YES", "yes"), (1, "yes"), (False, "no"), ("False", "no")]
)
def test_a_symptom_comes_as_a_word_or_a_boolean(value: object, answer: str) -> None:
    assert LesionMetadata.model_validate({"symptoms": {"itch": value}}).given() == {"symptoms": {"itch": answer}}


@pytest.mark.parametrize(("value", "flag"), [(True, True), ("yes", True), ("False", False), (0, False)])
def test_a_history_flag_comes_as_a_word_or_a_boolean(value: object, flag: bool) -> None:
    assert LesionMetadata.model_validate({"personal_hx_mm": value}).given() == {"personal_hx_mm": flag}


@pytest.mark.parametrize("spelling", NOT_GIVEN, ids=repr)
def test_what_is_not_given_leaves_no_trace(spelling: object) -> None:
    fields = [name for name in LesionMetadata.model_fields if name not in ("symptoms", "findings")]
    metadata = dict.fromkeys(fields, spelling) | {
        "symptoms": {"itch": spelling, "bleed": spelling},
        "findings": {"border": spelling, "colours": spelling},
    }
    assert LesionMetadata.model_validate(metadata).given() == {}
    assert LesionMetadata.model_validate({"symptoms": spelling, "findings": spelling}).given() == {}


def test_unknown_members_of_a_list_are_dropped_and_doubles_joined() -> None:
    metadata = LesionMetadata.model_validate({"findings": {"colours": ["tan", "unknown", "light brown", None, "red"]}})
    assert metadata.given() == {"findings": {"colours": ["light brown", "red"]}}


@pytest.mark.parametrize(
    ("age", "kept"), [(0, 0), (90, 90), (120, 120), (55.0, 55), ("55.0", 55), ("0", 0), (0.5, 0.5), (86, 86)]
)
def test_an_age_is_kept_exactly_as_given(age: object, kept: float) -> None:
    found = LesionMetadata.model_validate({"age": age}).age
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(
    "age",
    [-3, 999, 120.5, "sixty", True, "9" * 10_000, "inf", float("inf"), "5\x001", [61], {"years": 61}],
    ids=lambda age: str(age)[:20],
)
def test_an_impossible_age_is_refused_by_its_field(age: object) -> None:
    assert {error.field.split(".")[0] for error in refusal(age=age)} == {"age"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("diagnosis", "melanonna"),
        ("site", "bakc"),
        ("sex", "mael"),
        ("image_type", "dermascopic"),
        ("fitzpatrick_skin_type", "VIII"),
        ("benign_malignant", "malignent"),
        ("diagnosis", "Smith, John"),
        ("personal_hx_mm", "maybe so"),
    ],
)
def test_a_wrong_term_is_refused_with_known_ones_and_is_never_repeated(field: str, value: str) -> None:
    [error] = refusal(**{field: value})
    assert error.field == field
    assert error.nearest
    for term in error.nearest:
        assert term in error.message
        assert LesionMetadata.model_validate({field: term}).given()
    assert value not in error.model_dump_json()


@pytest.mark.parametrize(("typed", "meant"), [("melanom", "melanoma"), ("seborheic keratosis", "seborrheic keratosis")])
def test_the_nearest_term_is_the_one_that_was_meant(typed: str, meant: str) -> None:
    [error] = refusal(diagnosis=typed)
    assert error.nearest is not None
    assert error.nearest[0] == meant


@pytest.mark.parametrize("value", ["x" * 10_000, "nevus\x1b[31m", "ne\nvus", "nevus\u202e", "\ud800"], ids=ascii)
@pytest.mark.parametrize("field", ["diagnosis", "site", "sex", "personal_hx_mm"])
def test_long_or_unprintable_text_is_refused(field: str, value: str) -> None:
    [error] = refusal(**{field: value})
    assert error.field == field
    assert len(error.model_dump_json()) < 1000


@pytest.mark.parametrize("value", [["nevus"], {"name": "nevus"}, b"nevus"], ids=repr)
def test_a_term_that_is_no_text_is_refused(value: object) -> None:
    [error] = refusal(diagnosis=value)
    assert error.field == "diagnosis"


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"agee": 61}, "agee"),
        ({"symptoms": {"pain": "yes"}}, "symptoms.pain"),
        ({"findings": {"colour": ["red"]}}, "findings.colour"),
        ({"patient_name": "J. Smith"}, "patient_name"),
    ],
)
def test_an_extra_field_is_refused_by_name(metadata: dict[str, Any], field: str) -> None:
    [error] = refusal(**metadata)
    assert error.field == field
    assert "Smith" not in error.model_dump_json()


@pytest.mark.parametrize(("diagnosis", "says"), [("melanoma", "benign"), ("nevus", "malignant"), ("df", "malignant")])
def test_a_contradiction_names_both_fields(diagnosis: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LesionMetadata.model_validate({"diagnosis": diagnosis, "benign_malignant": says})
    [error] = caught.value.errors()
    assert "diagnosis" in error["msg"]
    assert "benign_malignant" in error["msg"]
    assert error["ctx"]["fields"] == ["diagnosis", "benign_malignant"]


@pytest.mark.parametrize(
    ("diagnosis", "says"),
    [("melanoma", "malignant"), ("nevus", "benign"), ("ak", "benign"), ("ak", "malignant"), ("mel", "indeterminate")],
)
def test_what_does_not_contradict_is_accepted(diagnosis: str, says: str) -> None:
    assert LesionMetadata(diagnosis=diagnosis, benign_malignant=says).benign_malignant == says


def test_the_text_of_a_validation_error_holds_no_value() -> None:
    with pytest.raises(ValidationError) as caught:
        LesionMetadata.model_validate({"diagnosis": "Smith, John", "age": 999})
    assert "Smith" not in str(caught.value)
    assert "999" not in str(caught.value)


def test_the_synonyms_of_one_diagnosis_give_equal_metadata() -> None:
    assert LesionMetadata(diagnosis="nv") == LesionMetadata(diagnosis="Melanocytic_Nevus")


def test_normalising_keeps_keys_that_are_not_ours_and_drops_what_is_not_given() -> None:
    stored = normalise_known({"diagnosis": "NEV", "age": "55.0", "sex": "unknown", "camera": "D90", "ward": None})
    assert stored == {"diagnosis": "nevus", "age": 55, "camera": "D90", "ward": None}


def test_normalising_refuses_a_wrong_value_of_a_known_field() -> None:
    with pytest.raises(ValidationError):
        normalise_known({"age": 999, "camera": "D90"})


def test_walk_names_nested_facts_with_dots() -> None:
    facts = LesionMetadata.model_validate({"age": 61, "symptoms": {"itch": "no"}}).given()
    assert dict(walk(facts)) == {"age": 61, "symptoms.itch": "no"}
