"""The verifier's lexicon: words and phrases with what they claim, from vocabularies, priors and words/*.toml.

Pure except for reading the files. Matches single phrases, independent of the sentence around them.
"""

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)?", re.UNICODE)
# British spelling -> the American one, which the lexicon uses.
AMERICAN = {"centre": "center", "centred": "centered", "centres": "centers", "grey": "gray", "greyish": "grayish"} | {
    f"colour{end}": f"color{end}" for end in ("", "s", "ed", "ing", "ation", "less")
}
# Fields whose phrases may contain a comma: "TBP tile, close-up", "border, mixed".
WITH_COMMA = ("image_type", "findings.border")
# Characters allowed between the words of one phrase.
JOINING = " -/():\t’'"
NEUTRAL = "neutral"
FINDING = "finding"
# Values of neutral phrases that join two finding words ("filled with"), call something typical ("well known"), or refer
# to the diagnosis without its name ("this condition", "typical of it").
JOINING_WORDS, CUE, OF_THE_DIAGNOSIS = "joining", "cue", "the diagnosis"


@dataclass(frozen=True)
class Word:
    """A word of a text: lower case, without possessive, with its position (code points, half open)."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Meaning:
    """The claim of a phrase: a field ("site", "symptoms.itch", "never.treatment", "neutral") and its value."""

    field: str
    value: str


@dataclass(frozen=True)
class Match:
    """A phrase of a text and its meanings: "black" claims a colour and can be part of a typical finding."""

    meanings: tuple[Meaning, ...]
    start: int
    end: int
    words: tuple[str, ...]

    @property
    def claims(self) -> bool:
        """True if it claims something about patient or lesion, or is unknown."""
        return not self.meanings or any(meaning.field != NEUTRAL for meaning in self.meanings)

    @cached_property
    def is_finding(self) -> bool:
        """True if it describes how a lesion looks."""
        return any(m.field == FINDING or m.field.startswith("findings.") for m in self.meanings)

    @cached_property
    def is_of_the_diagnosis(self) -> bool:
        """True if it refers to the diagnosis without its name: "this condition", "typical of it"."""
        return self.value(NEUTRAL) == OF_THE_DIAGNOSIS or self.value("tumour") == "named"

    @property
    def joins(self) -> bool:
        """True for a function word or phrase inside one finding: "with", "filled with"."""
        return self.words[0] in role("connectors") or self.value(NEUTRAL) == JOINING_WORDS

    @cached_property
    def is_cue(self) -> bool:
        """True for a word or phrase that calls something typical."""
        has_cue = not self.is_finding and not role("cues").isdisjoint(self.words)
        return has_cue or self.value(NEUTRAL) == CUE

    @property
    def is_symptom(self) -> bool:
        """True for "raised", "larger" and other words for a symptom."""
        return any(meaning.field.startswith("symptoms.") for meaning in self.meanings)

    @property
    def finding_words(self) -> tuple[str, ...]:
        """Its words in their base form, or the closed vocabulary's value for them ("sharp" for "well defined")."""
        values = tuple(meaning.value for meaning in self.meanings if meaning.field.startswith("findings."))
        if values and "|" not in values[0]:
            return values
        return phrase(self.value(FINDING) or " ".join(self.words))

    @property
    def says_no(self) -> bool:
        """True for a word that denies its symptom: "painless", "flat"."""
        form = " ".join(self.words)
        return any(form in forms for forms in read("claims")["says_no"].values())

    @property
    def is_closed_finding(self) -> bool:
        """True for a value of the closed vocabulary of findings."""
        return any(m.field.startswith("findings.") for m in self.meanings)

    def value(self, field: str) -> str | None:
        """The value that this phrase claims for a field, if any."""
        return next((meaning.value for meaning in self.meanings if meaning.field == field), None)


@dataclass(frozen=True)
class TextClaim:
    """One claim of a text. `field`: a metadata field or a kind of claim; `start`, `end`: a half-open span.

    `value`: in canonical form. `typical`: claimed of the diagnosis in general. `readings`: the sets of finding words
    that it can be part of; `words`: its own finding words; `things`: what its run of words names, with colours.
    """

    field: str
    value: str
    start: int
    end: int
    negated: bool = False
    typical: bool = False
    readings: tuple[frozenset[str], ...] = ()
    words: frozenset[str] = frozenset()
    things: tuple[tuple[str, frozenset[str]], ...] = ()


def words(text: str) -> list[Word]:
    """The words and numbers of a text; hyphens separate words."""
    return [Word(_plain(match[0]), match.start(), match.end()) for match in WORD.finditer(text)]


def _plain(word: str) -> str:
    """Lower case, without the ending of "patient's" and "doesn't"."""
    lower = word.lower()
    if lower in ("can't", "can’t"):  # the ending's removal would leave "can"
        return "cannot"
    bare = lower if lower.isalnum() else re.sub(r"['’](?:s|t)?$", "", lower)
    return AMERICAN.get(bare, bare)


def phrase(text: str) -> tuple[str, ...]:
    """A phrase as the tuple of its words."""
    return tuple(word.text for word in words(text))


class Lexicon:
    """Phrases and their meanings. `capitals`: words that mean something only in capitals ("BCC")."""

    def __init__(self, entries: Iterable[tuple[str, Meaning]], *, capitals: Set[str] = frozenset()) -> None:
        self._capitals = capitals
        self._meanings: dict[tuple[str, ...], tuple[Meaning, ...]] = {}
        self._longest: dict[str, int] = {}
        for form, meaning in entries:
            key = phrase(form)
            known = self._meanings.get(key, ())
            several = meaning.field == "findings.colours" and meaning not in known
            if key and (several or not any(other.field == meaning.field for other in known)):
                self._meanings[key] = (*known, meaning)
                self._longest[key[0]] = max(len(key), self._longest.get(key[0], 1))

    @cached_property
    def numbers(self) -> frozenset[str]:
        """The numbers in its phrases ("melanoma less than 0.76 mm")."""
        return frozenset(word for key in self._meanings for word in key if word[0].isdigit())

    def __contains__(self, form: str) -> bool:
        return bool(self._find(phrase(form)))

    def claims(self, form: str, field_prefix: str) -> bool:
        """True if a phrase claims a field with this prefix."""
        return any(meaning.field.startswith(field_prefix) for meaning in self._find(phrase(form)))

    def scan(self, text: str, *, skip: Sequence[tuple[int, int]] = ()) -> Iterator[Match]:
        """Match the longest phrase at each word; an unknown word has no meanings. `skip`: spans to leave out."""
        scanned = [word for word in words(text) if not any(a < word.end and word.start < b for a, b in skip)]
        at = 0
        while at < len(scanned):
            match = self._longest_at(text, scanned, at)
            yield match
            at += len(match.words)

    def _longest_at(self, text: str, scanned: list[Word], at: int) -> Match:
        longest = self._longest.get(scanned[at].text, 1)
        part = scanned[at : at + longest]
        joined, together = _joined(text, part) if longest > 1 else (1, 1)
        key = tuple(word.text for word in part[:joined])
        for length in range(len(key), 0, -1):
            meanings = self._find(key[:length])
            if length > together:  # with a comma in it: "TBP tile, close-up"
                meanings = tuple(meaning for meaning in meanings if meaning.field in WITH_COMMA)
            if length == 1 and key[0] in self._capitals and not text[part[0].start : part[0].end].isupper():
                meanings = ()
            if meanings or length == 1:
                return Match(meanings, part[0].start, part[length - 1].end, key[:length])
        raise AssertionError("a word is a phrase of length 1")

    def _find(self, key: tuple[str, ...]) -> tuple[Meaning, ...]:
        """The meanings of a phrase, also if its last word is a plural or a finding word plus "ly"; none if unknown."""
        if key in self._meanings:
            return self._meanings[key]
        for ending in ("s", "es") if key and key[-1].endswith("s") else ():
            singular = (*key[:-1], key[-1].removesuffix(ending))
            if len(singular[-1]) > 2 and singular in self._meanings:
                return self._meanings[singular]
        adjective = (*key[:-1], key[-1].removesuffix("ly")) if key else key
        return tuple(meaning for meaning in self._meanings.get(adjective, ()) if meaning.field == FINDING)


def _joined(text: str, part: list[Word]) -> tuple[int, int]:
    """How many leading words are separated only by JOINING or commas, and how many of them precede a comma."""
    together = 0
    for number, (left, right) in enumerate(itertools.pairwise(part), start=1):
        between = text[left.end : right.start]
        if between != " " and (rest := between.strip(JOINING)):
            together = together or number
            if rest != ",":
                return number, together
    return len(part), together or len(part)


@cache
def history_words(name: str = "") -> frozenset[str]:
    """The words of one list in words/histories.toml, or of all its lists if `name` is empty."""
    lists = read("histories")
    return frozenset(" ".join([lists[name]] if name else lists.values()).split())


@cache
def role(name: str) -> frozenset[str]:
    """The words of one role in words/roles.toml ("negators", "cues" ...)."""
    return frozenset(read("roles")[name].split())


@cache
def read(name: str) -> dict[str, Any]:
    """Parse one file of words/."""
    return tomllib.loads((files(__package__) / "words" / f"{name}.toml").read_text("utf-8"))
