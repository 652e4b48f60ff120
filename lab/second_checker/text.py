"""Splits a note into parts: normalised sentences, each either asserted of the patient or worded as typical."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from dermnote_notegen.writing.priors import Prior
from lab.second_checker.wordings import COLOURS, CONNECTORS, TYPICAL_CONNECTORS, diagnosis_regex, normalise

MARKER = (
    r"\b(?:typical(?:ly)?|characteristic(?:ally)?|characterized by|usual(?:ly)?|common(?:ly)?|often|frequently"
    r"|classic(?:al|ally)?|generally|tends? to|hallmarks?)\b"
)
_TAIL = re.compile(
    rf", (?=(?:(?:in |for )?which|where|while|whereas)\b[^,]*{MARKER})|,? (?=as (?:is|are) {MARKER})"
    r"|, (?=(?:a |both )?(?:finding |features? |findings )?(?:typical|characteristic) (?:of|for)\b)"
)


@dataclass(frozen=True)
class Part:
    """A normalised sentence or clause. `typical`: worded as typical of the diagnosis, not asserted of the patient."""

    text: str
    typical: bool


def sentences(text: str) -> list[str]:
    """The raw sentences; a semicolon or line break also ends a sentence."""
    pieces = re.split(r"(?<=[.;])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)\s+|[\r\n]+", text)
    return [piece.strip().rstrip(".;").strip() for piece in pieces if piece.strip(" .;")]


def parts(text: str, prior: Prior | None) -> list[Part]:
    """The parts of a note in reading order. A clause such as ", which typically shows ..." is a separate part."""
    found = []
    for sentence in sentences(text):
        normalised = normalise(sentence)
        cut = _TAIL.search(_without_diagnoses(normalised, prior))
        pieces = [normalised[: cut.start()], normalised[cut.end() :]] if cut else [normalised]
        found += [Part(piece, _is_typical(piece, prior)) for piece in pieces if piece]
    return found


def stray_capitals(text: str, prior: Prior | None) -> list[str]:
    """Capitalised words in sentences that are neither eponyms nor connecting words nor in the prior: likely names."""
    capitalised = re.compile(r"(?<=[a-z0-9,).] )[A-Z][a-z]+")
    words = [
        word for sentence in sentences(unicodedata.normalize("NFKC", text)) for word in capitalised.findall(sentence)
    ]
    return [word for word in words if normalise(word) not in _capitals(prior)]


def _is_typical(text: str, prior: Prior | None) -> bool:
    return re.search(MARKER, _without_diagnoses(text, prior)) is not None


def _without_diagnoses(text: str, prior: Prior | None) -> str:
    return diagnosis_regex(_synonyms(prior)).sub(lambda name: "*" * len(name[0]), text)


def _synonyms(prior: Prior | None) -> tuple[tuple[str, str], ...]:
    return tuple((spelling, prior.diagnosis) for spelling in prior.synonyms) if prior else ()


def _capitals(prior: Prior | None) -> frozenset[str]:
    wordings = " ".join(wording for finding in prior.findings for wording in finding.wordings) if prior else ""
    spelled = f"{wordings} {' '.join(prior.synonyms)}" if prior else ""
    return _known_capitals() | (frozenset(normalise(spelled).split()) - frozenset(COLOURS))


@cache
def _known_capitals() -> frozenset[str]:
    eponyms = {"fitzpatrick", "clark", "reed", "spitz", "becker", "bowen", "kaposi", "merkel", "jadassohn"}
    return frozenset(eponyms | CONNECTORS | TYPICAL_CONNECTORS)
