"""Closed vocabularies: canonical terms, their accepted spellings, and the nearest terms to a wrong one.

Terms are data (vocabularies/*.toml). Normalising never changes a term's granularity.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

NOT_GIVEN = frozenset({"", "unknown", "unk", "nan", "n/a", "na", "none", "null", "not given"})


def is_not_given(value: object) -> bool:
    """True for every spelling of "we don't know": None, NaN, empty text, "unknown", "UNK" ..."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and fold(value) in NOT_GIVEN)


def fold(text: str) -> str:
    """Lower case, one space between words, underscores as spaces: how spellings are compared."""
    return re.sub(r"[\s_]+", " ", text).strip().lower()


class UnknownTerm(ValueError):
    """A value that the vocabulary doesn't hold. The message names the nearest terms, never the value itself."""

    def __init__(self, vocabulary: str, nearest: list[str]) -> None:
        self.vocabulary = vocabulary
        self.nearest = nearest
        super().__init__(f"not a known {vocabulary}; nearest known: {', '.join(nearest)}")


@dataclass(frozen=True)
class Vocabulary:
    """One closed vocabulary. `spellings` maps each folded spelling to its canonical term."""

    name: str
    terms: tuple[str, ...]
    spellings: Mapping[str, str]

    def normalise(self, value: str) -> str:
        """The canonical term for any accepted spelling; raises UnknownTerm."""
        term = self.spellings.get(fold(value))
        if term is None:
            raise UnknownTerm(self.name, self.nearest(value))
        return term

    def nearest(self, value: str, *, most: int = 3) -> list[str]:
        """Up to `most` canonical terms that are spelled most alike; all of a small vocabulary."""
        if len(self.terms) <= 8:
            return list(self.terms)
        close = difflib.get_close_matches(fold(value)[:80], self.spellings, n=12, cutoff=0.0)
        return list(dict.fromkeys(self.spellings[spelling] for spelling in close))[:most]


def vocabulary(name: str, spellings_of: Mapping[str, Iterable[str]]) -> Vocabulary:
    """Build a vocabulary from term -> spellings; a spelling that two terms claim is an error in the data."""
    spellings: dict[str, str] = {}
    for term, others in spellings_of.items():
        for spelling in (term, *others):
            if spellings.setdefault(fold(spelling), term) != term:
                raise ValueError(f"{name}: '{spelling}' stands for '{spellings[fold(spelling)]}' and '{term}'")
    return Vocabulary(name=name, terms=tuple(spellings_of), spellings=spellings)


@dataclass(frozen=True)
class Diagnosis:
    """A diagnosis and its place in the paper's hierarchy (superclass, class, subclass = the term itself)."""

    name: str
    superclass: str
    klass: str
    synonyms: tuple[str, ...]


@dataclass(frozen=True)
class Site:
    """An anatomical site; `general` is ISIC's anatom_site_general that holds it, or ""."""

    name: str
    general: str
    synonyms: tuple[str, ...]
    adjectives: tuple[str, ...]


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "vocabularies" / f"{name}.toml").read_text("utf-8"))


@cache
def diagnoses() -> Mapping[str, Diagnosis]:
    """Every known diagnosis by its canonical name."""
    return {
        name: Diagnosis(name, entry["superclass"], entry["class"], tuple(entry["synonyms"]))
        for name, entry in _read("diagnoses").items()
    }


@cache
def sites() -> Mapping[str, Site]:
    """Every known anatomical site by its canonical name."""
    return {
        name: Site(name, entry["general"], tuple(entry["synonyms"]), tuple(entry.get("adjective", ())))
        for name, entry in _read("sites").items()
    }


@cache
def vocabularies() -> Mapping[str, Vocabulary]:
    """Every vocabulary by the metadata field that it serves (`symptom` serves all symptoms)."""
    held = {
        "diagnosis": vocabulary("diagnosis", {d.name: d.synonyms for d in diagnoses().values()}),
        "site": vocabulary("site", {s.name: s.synonyms for s in sites().values()}),
    }
    for field, spellings_of in _read("terms").items():
        held[field] = vocabulary(field.replace("_", " "), spellings_of)
    return held
