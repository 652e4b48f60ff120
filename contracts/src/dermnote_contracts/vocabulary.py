"""Closed vocabularies: canonical terms, their accepted spellings, and the nearest terms to an unknown one.

Terms are data: vocabularies/*.toml, one file per vocabulary. Normalising never makes a term broader or narrower.
"""

import difflib
import math
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

NOT_GIVEN = frozenset({"", "unknown", "unk", "nan", "n/a", "na", "<na>", "none", "null", "not given"})
# Vocabularies whose entries are TOML tables; in all others, an entry is `term = [spellings]`.
DETAILED = ("diagnoses", "sites")
MAX_COMPARED_CHARS = 40


def is_not_given(value: object) -> bool:
    """Whether a value means "unknown": None, NaN, empty text, "unknown", "UNK" ..."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and fold(value) in NOT_GIVEN)


def fold(text: str) -> str:
    """Fold a spelling for comparison: lower case, single spaces, underscores as spaces, plain apostrophes."""
    plain = unicodedata.normalize("NFC", text).replace("\u2019", "'")
    return re.sub(r"[\s_]+", " ", plain).strip().lower()


class UnknownTerm(ValueError):
    """A value outside the vocabulary. The message names the nearest terms, never the value itself."""

    def __init__(self, vocabulary: str, nearest: list[str]) -> None:
        self.vocabulary = vocabulary
        self.nearest = nearest
        super().__init__(f"not a known {vocabulary}; nearest known: {', '.join(nearest)}")


@dataclass(frozen=True)
class Vocabulary:
    """A closed vocabulary. `spellings` maps each folded spelling to its canonical term."""

    name: str
    terms: tuple[str, ...]
    spellings: Mapping[str, str]

    def normalise(self, value: str) -> str:
        """The canonical term of an accepted spelling; raises UnknownTerm."""
        term = self.spellings.get(fold(value))
        if term is None:
            raise UnknownTerm(self.name, self.nearest(value))
        return term

    def nearest(self, value: str, *, most: int = 3) -> list[str]:
        """Up to `most` canonical terms with the most similar spelling; all terms of a vocabulary of at most 8."""
        if len(self.terms) <= 8:
            return list(self.terms)
        close = difflib.get_close_matches(fold(value)[:MAX_COMPARED_CHARS], self.spellings, n=12, cutoff=0.0)
        return list(dict.fromkeys(self.spellings[spelling] for spelling in close))[:most]


def vocabulary(name: str, spellings_of: Mapping[str, Iterable[str]]) -> Vocabulary:
    """Build a vocabulary from term -> spellings; raises ValueError if two terms share a spelling."""
    spellings: dict[str, str] = {}
    for term, others in spellings_of.items():
        for spelling in (term, *others):
            if spellings.setdefault(fold(spelling), term) != term:
                raise ValueError(f"{name}: '{spelling}' stands for both '{spellings[fold(spelling)]}' and '{term}'")
    return Vocabulary(name=name, terms=tuple(spellings_of), spellings=spellings)


@dataclass(frozen=True)
class Diagnosis:
    """A diagnosis and its position in the paper's hierarchy (superclass, class, subclass = the term itself).

    `isic`: path of the same term in ISIC's hierarchy, or "" if ISIC does not have it.
    """

    name: str
    superclass: str
    class_name: str
    synonyms: tuple[str, ...]
    labels: tuple[str, ...] = ()
    isic: str = ""

    @property
    def spellings(self) -> tuple[str, ...]:
        """All accepted spellings except the name. In running text, only name and synonyms denote the diagnosis."""
        return (*self.synonyms, *self.labels, *_last_part(self.isic))


@dataclass(frozen=True)
class Site:
    """An anatomical site; `general`: ISIC's anatom_site_general that contains it, or ""; `isic` as in Diagnosis."""

    name: str
    general: str
    synonyms: tuple[str, ...]
    adjectives: tuple[str, ...]
    isic: str = ""

    @property
    def spellings(self) -> tuple[str, ...]:
        """All accepted spellings except the name."""
        return (*self.synonyms, *_last_part(self.isic))


def _last_part(path: str) -> tuple[str, ...]:
    return (path.rpartition(":")[2],) if path else ()


def _folder() -> Traversable:
    return files(__package__) / "vocabularies"


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((_folder() / f"{name}.toml").read_text("utf-8"))


def _closed() -> list[str]:
    """File names, without extension, of the vocabularies that are not in DETAILED."""
    names = (entry.name for entry in _folder().iterdir() if entry.name.endswith(".toml"))
    return sorted({name.removesuffix(".toml") for name in names} - set(DETAILED))


@cache
def diagnoses() -> Mapping[str, Diagnosis]:
    """Every known diagnosis by its canonical name."""
    return {
        name: Diagnosis(
            name=name,
            superclass=entry["superclass"],
            class_name=entry["class"],
            synonyms=tuple(entry["synonyms"]),
            labels=tuple(entry.get("labels", ())),
            isic=entry.get("isic", ""),
        )
        for name, entry in _read("diagnoses").items()
    }


@cache
def sites() -> Mapping[str, Site]:
    """Every known anatomical site by its canonical name."""
    return {
        name: Site(
            name=name,
            general=entry["general"],
            synonyms=tuple(entry["synonyms"]),
            adjectives=tuple(entry.get("adjective", ())),
            isic=entry.get("isic", ""),
        )
        for name, entry in _read("sites").items()
    }


@cache
def vocabularies() -> Mapping[str, Vocabulary]:
    """Every vocabulary by its metadata field (`symptom` serves all symptoms)."""
    closed = {name: vocabulary(name.replace("_", " "), _read(name)) for name in _closed()}
    return {
        "diagnosis": vocabulary("diagnosis", {d.name: d.spellings for d in diagnoses().values()}),
        "site": vocabulary("site", {s.name: s.spellings for s in sites().values()}),
        **closed,
    }
