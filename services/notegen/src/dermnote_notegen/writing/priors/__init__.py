"""Clinical priors: the typical findings of each diagnosis with their sources, one YAML file per diagnosis.

A prior never describes the patient: notes word its findings as typical. Users may add a folder of their own priors.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from dermnote_contracts.problems import StartRefused
from dermnote_contracts.vocabulary import diagnoses, sites

MIN_FINDINGS = 5
Text = Annotated[str, Field(min_length=2, max_length=160)]


class PriorsInvalid(StartRefused):
    """An invalid priors file; the message names the file and the fault."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Codes(_Entry):
    """ICD-10 (WHO) and ICD-11 MMS codes of the diagnosis."""

    icd10: Annotated[str, Field(pattern=r"^[A-Z]\d{2}(\.\d{1,2})?$")]
    icd11: Annotated[str, Field(pattern=r"^[A-Z0-9]{4}(\.[A-Z0-9]{1,2})?$")]


class Finding(_Entry):
    """One typical finding. `wordings`: synonymous noun phrases that can follow "typically shows"."""

    kind: Literal["dermoscopic", "clinical"]
    wordings: Annotated[tuple[Text, ...], Field(min_length=2, max_length=5)]


class Source(_Entry):
    """A publication that supports the findings, with a DOI or a URL if known."""

    title: Annotated[str, Field(min_length=8, max_length=300)]
    year: Annotated[int, Field(ge=1950, le=2026)]
    doi: str | None = None
    url: str | None = None


class Prior(_Entry):
    """The typical findings of a diagnosis. `isic`: the diagnosis's path in ISIC's hierarchy, as deep as it goes."""

    diagnosis: str
    superclass: Literal["benign", "indeterminate", "pre-cancerous", "malignant"]
    class_name: str = Field(alias="class")
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
        """At least five findings; an indeterminate diagnosis, whose lesions have nothing in common, may have none."""
        if len(self.findings) < MIN_FINDINGS and not (self.superclass == "indeterminate" and not self.findings):
            raise ValueError(f"findings: has {len(self.findings)}, needs at least {MIN_FINDINGS}")
        return self

    @field_validator("diagnosis")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in diagnoses():
            raise ValueError(f"'{value}' is not in the diagnosis vocabulary")
        return value

    @field_validator("typical_sites")
    @classmethod
    def _are_sites(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [site for site in value if site not in sites()]:
            raise ValueError(f"not in the site vocabulary: {', '.join(unknown)}")
        return value


def read_prior(text: str, *, name: str) -> Prior:
    """Parse one priors file; raises PriorsInvalid with its name and every fault."""
    try:
        return Prior.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise PriorsInvalid(f"{name}: {'; '.join(map(_fault, error.errors()))}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise PriorsInvalid(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error


def _fault(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else error["msg"]


class Priors(dict[str, Prior]):
    """Priors by diagnosis. `version`: twelve hex digits that change when any file changes."""

    def __init__(self, by_diagnosis: Mapping[str, Prior], *, version: str) -> None:
        super().__init__(by_diagnosis)
        self.version = version


@cache
def load_priors(folder: Path | None = None) -> Priors:
    """Read the shipped priors; a file in `folder` adds a diagnosis or replaces its shipped prior.

    Raises PriorsInvalid for a missing folder, an invalid file, and two files of the same diagnosis.
    """
    shipped = _read_files(files(__package__) / "data")
    if folder is not None and not folder.is_dir():
        raise PriorsInvalid(f"{folder}: folder of priors not found")
    added = {} if folder is None else _read_files(folder)
    priors = _by_diagnosis(shipped) | _by_diagnosis(added)
    version = hashlib.sha256("\0".join([*shipped.values(), *added.values()]).encode()).hexdigest()[:12]
    return Priors(dict(sorted(priors.items())), version=version)


def _read_files(folder: Traversable) -> dict[str, str]:
    """The texts of a folder's YAML files by path, sorted by name."""
    texts = {}
    try:
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith((".yaml", ".yml")):
                texts[str(file)] = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise PriorsInvalid(f"{file}: not UTF-8 text") from error
    except OSError as error:
        raise PriorsInvalid(f"{error.filename}: cannot be read: {error.strerror}") from error
    return texts


def _by_diagnosis(texts: Mapping[str, str]) -> dict[str, Prior]:
    priors: dict[str, Prior] = {}
    names: dict[str, str] = {}
    for name, text in texts.items():
        prior = read_prior(text, name=name)
        if prior.diagnosis in priors:
            raise PriorsInvalid(f"{name}: {names[prior.diagnosis]} is for {prior.diagnosis} too; keep one of the two")
        priors[prior.diagnosis], names[prior.diagnosis] = prior, name
    return priors
