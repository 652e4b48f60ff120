"""LesionMetadata: the validated and normalised facts of one lesion.

Fields that ISIC's isic-metadata has too are named as there; numbers are kept as given (an age of 92 stays 92).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from dermnote_contracts.vocabulary import UnknownTerm, diagnoses, is_not_given, vocabularies

MAX_VALUE_CHARS = 120
# Superclass -> values of benign_malignant that contradict it. Pre-cancerous and indeterminate diagnoses accept any
# value: data sets list actinic keratosis as benign, as indeterminate and as malignant.
CONTRADICTIONS = {
    "benign": ("malignant", "indeterminate/malignant"),
    "malignant": ("benign", "indeterminate/benign"),
}


def _term(field: str) -> Callable[[object], str | None]:
    def normalise(value: object) -> str | None:
        if is_not_given(value):
            return None
        if not isinstance(value, str | bool | int | float):
            raise PydanticCustomError("term_type", "must be text")
        text = str(value)
        if len(text) > MAX_VALUE_CHARS or not text.isprintable():
            raise PydanticCustomError(
                "term_form", "must be printable text of at most {most} characters", {"most": MAX_VALUE_CHARS}
            )
        try:
            return vocabularies()[field].normalise(text)
        except UnknownTerm as error:
            raise PydanticCustomError(
                "unknown_term", "{message}", {"message": str(error), "nearest": error.nearest}
            ) from error

    return normalise


def _terms(field: str) -> Callable[[object], list[str] | None]:
    normalise_term = _term(field)

    def normalise(value: object) -> list[str] | None:
        if is_not_given(value):
            return None
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple | set | frozenset):
            raise PydanticCustomError("terms_type", "must be a list of terms")
        terms = dict.fromkeys(term for term in map(normalise_term, value) if term is not None)
        return list(terms) or None

    return normalise


def _skin_type(value: object) -> str | None:
    """Normalise a skin type; -1 means unknown (Fitzpatrick17k)."""
    text = str(value).strip() if isinstance(value, str | int | float) else ""
    return None if text in ("-1", "-1.0") else _term("fitzpatrick_skin_type")(value)


def _number(value: object) -> object:
    if is_not_given(value):
        return None
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "must be a number")
    if isinstance(value, str):
        try:
            value = float(value.replace("_", "x"))  # float() would read "6_1" as 61
        except ValueError as error:
            raise PydanticCustomError("number_type", "must be a number") from error
    if not isinstance(value, int | float):
        raise PydanticCustomError("number_type", "must be a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("number_type", "must be a finite number")
        return int(value) if value.is_integer() else value
    return value


def _group(value: object) -> object:
    return {} if is_not_given(value) else value


def _flag(value: object) -> bool | None:
    answer = _term("symptom")(value)
    return None if answer is None else answer == "yes"


YesNo = Annotated[Literal["yes", "no"] | None, BeforeValidator(_term("symptom"))]
Flag = Annotated[bool | None, BeforeValidator(_flag)]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def given(self) -> dict[str, Any]:
        """The fields that have a value, as plain JSON values."""
        return self.model_dump(mode="json", exclude_none=True)


class Symptoms(_Facts):
    """Symptoms reported by the patient, as in PAD-UFES-20: yes, no, or not given."""

    itch: YesNo = None
    hurt: YesNo = None
    grew: YesNo = None
    changed: YesNo = None
    bleed: YesNo = None
    elevation: YesNo = None


class Findings(_Facts):
    """Findings visible in the image, in the closed vocabulary of arXiv 2511.21827."""

    asymmetry: Annotated[str | None, BeforeValidator(_term("asymmetry"))] = None
    border: Annotated[str | None, BeforeValidator(_term("border"))] = None
    colours: Annotated[list[str] | None, BeforeValidator(_terms("colours"))] = None
    structures: Annotated[list[str] | None, BeforeValidator(_terms("structures"))] = None


class LesionMetadata(_Facts):
    """The known facts of one lesion. An unknown term is an error that names the nearest known terms."""

    age: Annotated[Annotated[int | float, Field(ge=0, le=120)] | None, BeforeValidator(_number)] = None
    sex: Annotated[str | None, BeforeValidator(_term("sex"))] = None
    site: Annotated[str | None, BeforeValidator(_term("site"))] = None
    diagnosis: Annotated[str | None, BeforeValidator(_term("diagnosis"))] = None
    benign_malignant: Annotated[str | None, BeforeValidator(_term("benign_malignant"))] = None
    image_type: Annotated[str | None, BeforeValidator(_term("image_type"))] = None
    fitzpatrick_skin_type: Annotated[str | None, BeforeValidator(_skin_type)] = None
    clin_size_long_diam_mm: Annotated[Annotated[int | float, Field(gt=0, le=500)] | None, BeforeValidator(_number)] = (
        None
    )
    personal_hx_mm: Flag = None
    family_hx_mm: Flag = None
    symptoms: Annotated[Symptoms, BeforeValidator(_group)] = Symptoms()
    findings: Annotated[Findings, BeforeValidator(_group)] = Findings()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        superclass = diagnoses()[self.diagnosis].superclass if self.diagnosis else ""
        if self.benign_malignant in CONTRADICTIONS.get(superclass, ()):
            raise PydanticCustomError(
                "contradiction",
                "diagnosis is {superclass}, but benign_malignant says otherwise",
                {"superclass": superclass, "fields": ["diagnosis", "benign_malignant"]},
            )
        return self

    def given(self) -> dict[str, Any]:
        """The fields that have a value; empty groups are omitted."""
        return {name: value for name, value in super().given().items() if value != {}}


def normalise_known(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Normalise the fields of LesionMetadata and keep every other key unchanged.

    The retrieval service calls this for stored metadata and for filters. Known fields without a value are dropped.
    Raises pydantic.ValidationError for a known field with an invalid value.
    """
    known = {key: value for key, value in metadata.items() if key in LesionMetadata.model_fields}
    others = {key: value for key, value in metadata.items() if key not in known}
    return LesionMetadata.model_validate(known).given() | others


def walk(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each fact as (dotted path, value): ("symptoms.itch", "yes")."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
