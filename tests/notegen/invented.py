"""Invented lesions for property tests: any facts of a request, in the shape of LesionMetadata.given()."""

from typing import Any

from hypothesis import strategies as st

from dermnote_contracts.metadata import LesionMetadata, Symptoms
from dermnote_contracts.vocabulary import diagnoses, sites, vocabularies


def _some_of(field: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(vocabularies()[field].terms), min_size=1, max_size=3, unique=True)


YES_NO = st.sampled_from(["yes", "no"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "age": st.integers(0, 120),
    "sex": st.sampled_from(["male", "female"]),
    "site": st.sampled_from(sorted(sites())),
    "diagnosis": st.sampled_from(sorted(diagnoses())),
    "image_type": st.sampled_from(vocabularies()["image_type"].terms),
    "fitzpatrick_skin_type": st.sampled_from(vocabularies()["fitzpatrick_skin_type"].terms),
    "clin_size_long_diam_mm": st.one_of(st.integers(1, 90), st.sampled_from([0.5, 2.5, 12.5])),
    "personal_hx_mm": st.booleans(),
    "family_hx_mm": st.booleans(),
    "symptoms": st.fixed_dictionaries({}, optional=dict.fromkeys(Symptoms.model_fields, YES_NO)),
    "findings": st.fixed_dictionaries(
        {},
        optional={
            "asymmetry": st.sampled_from(vocabularies()["asymmetry"].terms),
            "border": st.sampled_from(vocabularies()["border"].terms),
            "colours": _some_of("colours"),
            "structures": _some_of("structures"),
        },
    ),
}


@st.composite
def lesions(draw: st.DrawFn) -> dict[str, Any]:
    """At least one fact of one lesion; sometimes with a malignancy that fits the diagnosis."""
    facts = draw(st.fixed_dictionaries({}, optional=VALUES).map(_given).filter(bool))
    if draw(st.booleans()):
        superclass = diagnoses()[facts["diagnosis"]].superclass if "diagnosis" in facts else "benign"
        if superclass in ("benign", "malignant"):
            facts["benign_malignant"] = superclass
    return facts


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return LesionMetadata.model_validate(values).given()
