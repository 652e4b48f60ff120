"""The verifier's lexicon: which words claim what. Built from vocabularies, priors, words/*.toml; longest first.

Pure but for reading the files. It knows single words and phrases, nothing of the sentence they stand in.
"""

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from dermnote_contracts.vocabulary import diagnoses, sites

WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)?", re.UNICODE)
LATIN_PLURALS = (
    ("osis", "oses"),
    ("asis", "ases"),
    ("oma ", "omas "),
    ("us", "i"),
    ("ntigo", "ntigines"),
    ("oma", "omata"),
    ("ula", "ulae"),
    ("uca", "ucae"),
)
# Words of diagnoses that are too short or too common to be read as one: codes such as "df" or "mel".
MIN_DIAGNOSIS_LETTERS = 4
# Abbreviations of diagnoses; only in capitals.
SHORT_DIAGNOSES = {
    "ak": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "df": "dermatofibroma",
    "mcc": "merkel cell carcinoma",
    "scc": "squamous cell carcinoma",
    "sk": "seborrheic keratosis",
    "ssm": "superficial spreading melanoma",
}
# Spellings of words of findings.
AMERICAN = {"centre": "center", "centred": "centered", "centres": "centers", "grey": "gray", "greyish": "grayish"} | {
    f"colour{end}": f"color{end}" for end in ("", "s", "ed", "ing", "ation", "less")
}
# What a comma may part: "TBP tile, close-up", "border, mixed".
PARTED_BY_COMMA = ("image_type", "findings.border")
# What may stand between the words of one phrase.
JOINING = " -/():\t’'"
NEUTRAL = "neutral"
FINDING = "finding"
# The values of neutral phrases that join two finding words ("filled with"), that call something typical ("well known"),
# and that speak of the diagnosis without its name: "this condition", "typical of it".
JOINING_WORDS, CUE, OF_THE_DIAGNOSIS = "joining", "cue", "the diagnosis"


@dataclass(frozen=True)
class Word:
    """A word of a text: lower case, without possessive, with its place (code points, half open)."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Meaning:
    """What a phrase claims: a field ("site", "symptoms.itch", "never.treatment", "neutral") and its value."""

    field: str
    value: str


@dataclass(frozen=True)
class Match:
    """A phrase of a text and its meanings: "black" claims a colour, and can be part of a typical finding."""

    meanings: tuple[Meaning, ...]
    start: int
    end: int
    words: tuple[str, ...]

    @property
    def claims(self) -> bool:
        """True when it says something of patient or lesion, or is not known."""
        return not self.meanings or any(meaning.field != NEUTRAL for meaning in self.meanings)

    @cached_property
    def is_finding(self) -> bool:
        """True when it says how a lesion looks."""
        return any(m.field == FINDING or m.field.startswith("findings.") for m in self.meanings)

    @cached_property
    def is_of_the_diagnosis(self) -> bool:
        """True for "this condition", "typical of it"."""
        return self.value(NEUTRAL) == OF_THE_DIAGNOSIS

    @property
    def joins(self) -> bool:
        """True for a small word or phrase inside one finding: "with", "filled with"."""
        return self.words[0] in role("connectors") or self.value(NEUTRAL) == JOINING_WORDS

    @cached_property
    def is_cue(self) -> bool:
        """True for a word or phrase that calls something typical."""
        said = not self.is_finding and not role("cues").isdisjoint(self.words)
        return said or self.value(NEUTRAL) == CUE

    @property
    def finding_words(self) -> tuple[str, ...]:
        """Its words as the lexicon has them, or the value of the closed vocabulary ("well defined": "sharp")."""
        values = tuple(meaning.value for meaning in self.meanings if meaning.field.startswith("findings."))
        if values and "|" not in values[0]:
            return values
        return phrase(self.value(FINDING) or " ".join(self.words))

    @property
    def says_no(self) -> bool:
        """True for a symptom's word that denies it by itself: "painless", "flat"."""
        said = " ".join(self.words)
        return any(said in forms for forms in claim_words()["says_no"].values())

    def value_of_closed(self) -> bool:
        """True when it is a value of the closed vocabulary of findings."""
        return any(m.field.startswith("findings.") for m in self.meanings)

    def value(self, field: str) -> str | None:
        """The value that this phrase gives a field, if it does."""
        return next((meaning.value for meaning in self.meanings if meaning.field == field), None)


def words(text: str) -> list[Word]:
    """The words and numbers of a text; hyphens part words."""
    return [Word(_plain(match[0]), match.start(), match.end()) for match in WORD.finditer(text)]


def _plain(word: str) -> str:
    """Lower case, without the end of "patient's" and "doesn't"."""
    lower = word.lower()
    bare = lower if lower.isalnum() else re.sub(r"['’](?:s|t)?$", "", lower)
    return AMERICAN.get(bare, bare)


def phrase(text: str) -> tuple[str, ...]:
    """A phrase as the tuple of its words."""
    return tuple(word.text for word in words(text))


class Lexicon:
    """Phrases and their meanings."""

    def __init__(self, entries: Iterable[tuple[str, Meaning]]) -> None:
        self._meanings: dict[tuple[str, ...], tuple[Meaning, ...]] = {}
        self._longest: dict[str, int] = {}
        for form, meaning in entries:
            key = phrase(form)
            held = self._meanings.get(key, ())
            several = meaning.field == "findings.colours" and meaning not in held
            if key and (several or not any(other.field == meaning.field for other in held)):
                self._meanings[key] = (*held, meaning)
                self._longest[key[0]] = max(len(key), self._longest.get(key[0], 1))

    def __contains__(self, form: str) -> bool:
        return bool(self._find(phrase(form)))

    def says(self, form: str, field: str) -> bool:
        """True when a phrase claims a field that begins so."""
        return any(meaning.field.startswith(field) for meaning in self._find(phrase(form)))

    def scan(self, text: str, *, passed: Sequence[tuple[int, int]] = ()) -> Iterator[Match]:
        """Every phrase, longest first at each word; an unknown word has no meanings. `passed`: spans left out."""
        found = [word for word in words(text) if not any(a < word.end and word.start < b for a, b in passed)]
        at = 0
        while at < len(found):
            match = self._longest_at(text, found, at)
            yield match
            at += len(match.words)

    def _longest_at(self, text: str, found: list[Word], at: int) -> Match:
        longest = self._longest.get(found[at].text, 1)
        part = found[at : at + longest]
        joined, together = _joined(text, part) if longest > 1 else (1, 1)
        key = tuple(word.text for word in part[:joined])
        for length in range(len(key), 0, -1):
            meanings = self._find(key[:length])
            if length > together:  # a comma stands between: "TBP tile, close-up"
                meanings = tuple(meaning for meaning in meanings if meaning.field in PARTED_BY_COMMA)
            if length == 1 and key[0] in SHORT_DIAGNOSES and not text[part[0].start : part[0].end].isupper():
                meanings = ()
            if meanings or length == 1:
                return Match(meanings, found[at].start, found[at + length - 1].end, key[:length])
        raise AssertionError("a word is a phrase of length 1")

    def _find(self, key: tuple[str, ...]) -> tuple[Meaning, ...]:
        """Meanings of a phrase, its last word also as a plural, or as the adverb of a finding; none if not known."""
        if key in self._meanings:
            return self._meanings[key]
        for ending in ("s", "es") if key and key[-1].endswith("s") else ():
            singular = (*key[:-1], key[-1].removesuffix(ending))
            if len(singular[-1]) > 2 and singular in self._meanings:
                return self._meanings[singular]
        adjective = (*key[:-1], key[-1].removesuffix("ly")) if key else key
        return tuple(meaning for meaning in self._meanings.get(adjective, ()) if meaning.field == FINDING)


def _joined(text: str, part: list[Word]) -> tuple[int, int]:
    """How many words go before the first that more than a space, hyphen, slash or comma parts from the one before.

    And how many before the first comma.
    """
    together = 0
    for number, (left, right) in enumerate(itertools.pairwise(part), start=1):
        between = text[left.end : right.start]
        if between != " " and (rest := between.strip(JOINING)):
            together = together or number
            if rest != ",":
                return number, together
    return len(part), together or len(part)


@cache
def claim_words() -> Mapping[str, Any]:
    """words/claims.toml: forms by what they claim."""
    return _read("claims")


@cache
def role(name: str) -> frozenset[str]:
    """The words of one role in words/roles.toml ("negators", "cues" ...)."""
    return frozenset(_read("roles")[name].split())


@cache
def _neutral_words() -> tuple[str, ...]:
    held, looks = _read("neutral"), claim_words()["other_findings"]
    roles = (
        word
        for name in _read("roles")
        for word in sorted(role(name))
        if not {word, word.removesuffix("s"), word.removesuffix("es")}.intersection(looks)
    )
    return (*held["words"].split(), *held["phrases"], *roles)


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "words" / f"{name}.toml").read_text("utf-8"))


def note_lexicon(wordings: Iterable[str]) -> Lexicon:
    """Everything that a note can say. `wordings`: of all priors' findings. A longer phrase goes before its parts."""
    general = ((words, Meaning(NEUTRAL, OF_THE_DIAGNOSIS)) for words in _of_the_diagnosis())
    phrases = ((words, Meaning(NEUTRAL, value)) for words, value in _phrases_that_mean())
    neutral = ((word, Meaning(NEUTRAL, word)) for word in _neutral_words())
    return Lexicon(
        [
            *_diagnoses(),
            *_short_diagnoses(),
            *_sites(),
            *_claims(),
            *_findings(set(wordings)),
            *general,
            *_in_general(),
            *phrases,
            *neutral,
        ]
    )


def _phrases_that_mean() -> Iterator[tuple[str, str]]:
    """Neutral phrases with a meaning of their own in a sentence."""
    held = _read("neutral")
    for verb, words in itertools.product(("", "is ", "are "), held["joining"]["phrases"]):
        yield f"{verb}{words}", JOINING_WORDS
    yield from ((words, CUE) for words in held["cues"]["phrases"])


def _of_the_diagnosis() -> Iterator[str]:
    """ "This condition", "lesions of this type", "typical of it"."""
    held = _read("neutral")["of_the_diagnosis"]
    for name in held["names"].split():
        yield from (f"{which} {name}" for which in held["which"].split())
    yield from held["phrases"]
    for cue, word, pronoun in itertools.product(held["cues"].split(), held["prepositions"].split(), ("it", "them")):
        yield f"{cue} {word} {pronoun}"


def _in_general() -> Iterator[tuple[str, Meaning]]:
    """ "May typically" show, "typically looks like": said of a diagnosis they hedge nothing; "may often be" does."""
    held = _read("neutral")["in_general"]
    for adverb, verb in itertools.product(held["adverbs"].split(), held["verbs"].split()):
        for form in (f"{verb} {adverb}", f"{adverb} {verb}", f"{verb} also {adverb}"):
            yield form, Meaning(NEUTRAL, form)
            yield f"{form} be", Meaning("never.hedging", form)
    for adverb, verb in itertools.product(held["adverbs"].split(), held["likened"].split()):
        yield f"{adverb} {verb} like", Meaning(NEUTRAL, adverb)


def _diagnoses() -> Iterator[tuple[str, Meaning]]:
    for diagnosis in diagnoses().values():
        names = [
            name for name in diagnosis.synonyms if len(name) > MIN_DIAGNOSIS_LETTERS or name in ("mole", "wart", "acne")
        ]
        for name in (diagnosis.name, *names):
            for form in (name, *_latin_plurals(name)):
                yield form, Meaning("diagnosis", diagnosis.name)
                for bound in (" more than", " less than"):
                    yield form.replace(bound, f" of{bound}"), Meaning("diagnosis", diagnosis.name)
                if diagnosis.superclass in phrase(form):  # "malignant melanoma"
                    yield form, Meaning("malignancy", diagnosis.superclass)


def _short_diagnoses() -> Iterator[tuple[str, Meaning]]:
    yield from ((short, Meaning("diagnosis", name)) for short, name in SHORT_DIAGNOSES.items())


def _latin_plurals(form: str) -> Iterator[str]:
    """Plurals that an s does not make: "keratoses", "blue nevi"."""
    for singular, plural in LATIN_PLURALS:
        if form.endswith(singular) or (singular.endswith(" ") and singular in form):
            head, _, rest = form.rpartition(singular)
            yield f"{head}{plural}{rest}"


def _sites() -> Iterator[tuple[str, Meaning]]:
    for site in sites().values():
        for form in (site.name, *site.synonyms, *site.adjectives):
            yield form, Meaning("site", site.name)
            if " of the " in form:
                yield form.replace(" of the ", " of "), Meaning("site", site.name)


def _claims() -> Iterator[tuple[str, Meaning]]:
    held = claim_words()
    for name, forms in held["symptoms"].items():
        for form in forms:
            yield form, Meaning(f"symptoms.{name}", "yes")
            yield f"asked about {form}", Meaning("never.hedging", form)  # it says nothing of the answer
            yield f"history of {form}", Meaning(f"symptoms.{name}", "yes")
    for group in ("asymmetry", "border", "colours", "structures"):
        for value, forms in held[group].items():
            yield from ((form, Meaning(f"findings.{group}", value)) for form in forms)
    for form, values in held["broader_colours"].items():
        yield form, Meaning("findings.colours", "|".join(values))
    for field in ("sex", "age", "image_type", "malignancy"):
        for value, forms in held[field].items():
            yield from ((form, Meaning(field, value)) for form in forms)
    for field, forms in held["never"].items():
        yield from ((form, Meaning(f"never.{field}", form)) for form in forms)


def _findings(wordings: set[str]) -> Iterator[tuple[str, Meaning]]:
    """Each word of the wordings; and a wording as a whole where a part of it would claim or deny something else.

    "Scar-like patch" is no scar, "milia-like cysts" are no milia, "a lack of pigment network" denies nothing given.
    """
    elsewhere = Lexicon([*_diagnoses(), *_sites(), *_claims()])
    for wording in sorted(wordings):
        others = {m.field for match in elsewhere.scan(wording) for m in match.meanings}
        denies = any(word in role("negators") for word in phrase(wording))
        if denies or any(not field.startswith(("findings.", "symptoms.elevation")) for field in others):
            yield _bare(wording), Meaning(FINDING, wording)
    found = {word for wording in wordings for word in phrase(wording)} - set(_neutral_words())
    looks = claim_words()["other_findings"]
    known = found.union(looks)
    for word in sorted(found.union(_forms())):
        if word not in elsewhere or elsewhere.says(word, "findings.") or elsewhere.says(word, "symptoms.elevation"):
            yield word, Meaning(FINDING, _base(word, known))
    for form in looks:
        if form not in elsewhere:
            yield form, Meaning(FINDING, _base(form, known))


@cache
def _forms() -> Mapping[str, str]:
    """Each word of words/forms.toml and the one that stands for it."""
    return {form.replace("-", " "): base for base, forms in _read("forms").items() for form in (base, *forms.split())}


def _base(form: str, known: Set[str]) -> str:
    """The word that stands for it, by words/forms.toml, as a singular or as an adjective ("regularly")."""
    bases = (form.removesuffix(ending) for ending in ("es", "s", "ly"))
    return _forms().get(form) or next((base for base in bases if base != form and base in known), form)


def _bare(wording: str) -> str:
    return re.sub(r"^(?:an?|the) ", "", wording)
