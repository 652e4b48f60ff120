"""Clinical priors: what is typical of a diagnosis, one YAML file each, with sources. Pure but for reading the files.

A prior never speaks of the patient at hand: what a note takes from it is worded as typical. Users may add a folder.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from dermnote_contracts.problems import StartRefused
from dermnote_contracts.vocabulary import diagnoses, sites

LEAST_FINDINGS = 5
Text = Annotated[str, Field(min_length=2, max_length=160)]


class PriorsInvalid(StartRefused):
    """A priors file that cannot be used: names the file and what is wrong in it."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Codes(_Entry):
    """ICD-10 (WHO) and ICD-11 MMS codes of the diagnosis."""

    icd10: Annotated[str, Field(pattern=r"^[A-Z]\d{2}(\.\d{1,2})?$")]
    icd11: Annotated[str, Field(pattern=r"^[A-Z0-9]{4}(\.[A-Z0-9]{1,2})?$")]


class Finding(_Entry):
    """One typical finding. `wordings`: noun phrases that can follow "typically shows", all of the same meaning."""

    kind: Literal["dermoscopic", "clinical"]
    wordings: Annotated[tuple[Text, ...], Field(min_length=2, max_length=5)]


class Source(_Entry):
    """A publication that the findings are taken from; with a DOI or an address."""

    title: Annotated[str, Field(min_length=8, max_length=300)]
    year: Annotated[int, Field(ge=1950, le=2026)]
    doi: str | None = None
    url: str | None = None


class Prior(_Entry):
    """What is typical of one diagnosis. `isic`: its path in ISIC's diagnosis hierarchy, as far as ISIC has it."""

    diagnosis: str
    superclass: Literal["benign", "indeterminate", "pre-cancerous", "malignant"]
    klass: str = Field(alias="class")
    isic: tuple[str, ...]
    synonyms: tuple[Text, ...]
    codes: Codes
    definition: Annotated[str, Field(min_length=20, max_length=240)]
    findings: Annotated[tuple[Finding, ...], Field(max_length=14)]
    typical_sites: Annotated[tuple[str, ...], Field(min_length=1)]
    never_called: Annotated[tuple[Text, ...], Field(min_length=2)]
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_findings(self) -> Self:
        """Five at least; a remainder class, whose lesions have nothing in common, has none."""
        if len(self.findings) < LEAST_FINDINGS and not (self.superclass == "indeterminate" and not self.findings):
            raise ValueError(f"findings: {len(self.findings)} are given, at least {LEAST_FINDINGS} are needed")
        return self

    @field_validator("diagnosis")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in diagnoses():
            raise ValueError(f"'{value}' is no term of the diagnosis vocabulary")
        return value

    @field_validator("typical_sites")
    @classmethod
    def _are_sites(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [site for site in value if site not in sites()]:
            raise ValueError(f"no terms of the site vocabulary: {', '.join(unknown)}")
        return value


def read_prior(text: str, *, name: str) -> Prior:
    """One priors file; raises PriorsInvalid with its name and every fault."""
    try:
        return Prior.model_validate(yaml.safe_load(text))
    except ValidationError as wrong:
        raise PriorsInvalid(f"{name}: {'; '.join(map(_fault, wrong.errors()))}") from wrong
    except (yaml.YAMLError, ValueError) as wrong:  # ValueError: a date that is none
        raise PriorsInvalid(f"{name}: not valid YAML: {' '.join(str(wrong).split())}") from wrong


def _fault(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else error["msg"]


@dataclass(frozen=True)
class Priors(Mapping[str, Prior]):
    """Priors by diagnosis. `version`: twelve hex digits that change whenever any file does."""

    by_diagnosis: Mapping[str, Prior]
    version: str

    def __getitem__(self, diagnosis: str) -> Prior:
        return self.by_diagnosis[diagnosis]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_diagnosis)

    def __len__(self) -> int:
        return len(self.by_diagnosis)


@cache
def load_priors(folder: Path | None = None) -> Priors:
    """The shipped priors; a file in `folder` adds a diagnosis or replaces the shipped one of the same diagnosis.

    Raises PriorsInvalid for a folder that is not there, a file that can't be used, and two files of one diagnosis.
    """
    shipped, own = _shipped(), _own(folder)
    found = _by_diagnosis(shipped) | _by_diagnosis(own)
    version = hashlib.sha256("\0".join([*shipped.values(), *own.values()]).encode()).hexdigest()[:12]
    return Priors(dict(sorted(found.items())), version)


def _by_diagnosis(texts: Mapping[str, str]) -> dict[str, Prior]:
    found: dict[str, Prior] = {}
    names: dict[str, str] = {}
    for name, text in texts.items():
        prior = read_prior(text, name=name)
        if prior.diagnosis in found:
            raise PriorsInvalid(f"{name}: {names[prior.diagnosis]} is of {prior.diagnosis} too; keep one of the two")
        found[prior.diagnosis], names[prior.diagnosis] = prior, name
    return found


def _shipped() -> dict[str, str]:
    entries = sorted((files(__package__) / "data").iterdir(), key=lambda entry: entry.name)
    return {entry.name: entry.read_text("utf-8") for entry in entries if entry.name.endswith(".yaml")}


def _own(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    if not folder.is_dir():
        raise PriorsInvalid(f"{folder}: no such folder of priors")
    return {str(path): _own_text(path) for path in sorted(folder.glob("*.y*ml")) if path.suffix in (".yaml", ".yml")}


def _own_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as wrong:
        raise PriorsInvalid(f"{path}: not UTF-8 text") from wrong
