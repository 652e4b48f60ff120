"""Claims: what a text says about age, sex, site, diagnosis and malignancy, each with its place in the text."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from dermnote_contracts.vocabulary import diagnoses, sites

NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[- ](?:one|two|three|four|five|"
    "six|seven|eight|nine))?"
)
_NUMBER = rf"\d+(?:\.\d+)?|{NUMBER_WORDS}"
_DECADE = r"\d{1,2}0'?s|teens|(?:twen|thir|for|fif|six|seven|eigh|nine)ties"
AGE = re.compile(
    rf"\b(?P<old>{_NUMBER})[\s-]*(?:years?|yrs?|y)[\s-]*(?:old|of age)\b"
    rf"|\b(?P<yo>\d+)\s?(?:yo|y/o|y\.o\.)(?!\w)"
    rf"|\b(?:aged?|age of|age is|age:)\s+(?P<aged>{_NUMBER})\b"
    rf"|\bin (?:his|her|their|the) (?:early |mid[- ]?|late )?(?P<decade>{_DECADE})\b"
    r"|\b(?P<vague>elderly|middle-aged|teenage[dr]?|adolescent|infant|toddler|newborn|\w+genarian)\b",
    re.IGNORECASE,
)
SEX = re.compile(
    r"\b(?:(?P<female>female|woman|women|girl|lady|she|her|hers|herself)"
    r"|(?P<male>male|man|men|boy|gentleman|he|him|his|himself))\b",
    re.IGNORECASE,
)
MALIGNANCY = re.compile(
    r"\b(?:(?P<benign>non-?cancerous|non-?malignant|benign)"
    r"|(?P<precancerous>pre-?cancerous|pre-?malignant)"
    r"|(?P<malignant>cancerous|cancers?|malignant|malignancy|carcinomas?))\b",
    re.IGNORECASE,
)
NEGATION = re.compile(
    r"\b(?:no|not|without|denies|absence of|negative for|rules? out|ruled out|exclude[sd]?|rather than)"
    r"\b(?:\W+\w+){0,4}\W*$",
    re.IGNORECASE,
)
# Words that name a site elsewhere and something else here.
NOT_A_SITE = re.compile(r"(?:came|come|comes|go|goes|went|dates?|dating|fell|on the (?:one|other))\s$", re.IGNORECASE)
LATIN_PLURALS = (
    ("osis", "oses"),
    ("us", "i"),
    ("ntigo", "ntigines"),
    ("oma", "omata"),
    ("ula", "ulae"),
    ("uca", "ucae"),
)


@dataclass(frozen=True)
class TextClaim:
    """One claim: `value` is canonical (a term, a number as text), `start`/`end` code points, half open."""

    field: str
    value: str
    start: int
    end: int
    negated: bool = False


@dataclass(frozen=True)
class Lexicon:
    """Surface forms -> canonical terms, matched longest first, with or without a plural s."""

    pattern: re.Pattern[str]
    terms: dict[str, str]

    def find(self, text: str) -> Iterator[tuple[str, int, int]]:
        """(canonical term, start, end) of every non-overlapping match."""
        for match in self.pattern.finditer(text):
            yield self.terms[_surface(match["form"])], match.start(), match.end()


def _surface(text: str) -> str:
    return re.sub(r"[\s-]+", " ", text).lower()


def lexicon(forms: Iterable[tuple[str, str]]) -> Lexicon:
    """Build from (surface form, canonical term); the first term to claim a form keeps it."""
    terms: dict[str, str] = {}
    for form, term in forms:
        for spelling in (form, *_latin_plurals(form)):
            terms.setdefault(_surface(spelling), term)
    longest_first = sorted(terms, key=len, reverse=True)
    body = "|".join(re.escape(form).replace(r"\ ", r"[\s-]+") for form in longest_first)
    return Lexicon(re.compile(rf"(?<![\w])(?P<form>{body})(?:s|es)?(?![\w])", re.IGNORECASE), terms)


def _latin_plurals(form: str) -> Iterator[str]:
    """Plurals that an s does not make: "keratoses", "blue nevi"."""
    for singular, plural in LATIN_PLURALS:
        if form.endswith(singular):
            yield form.removesuffix(singular) + plural


@cache
def diagnosis_lexicon() -> Lexicon:
    """Names and spelled-out synonyms of every diagnosis; bare codes such as "df" or "mel" are not words."""
    forms = [(d.name, d.name) for d in diagnoses().values()]
    forms += [(s, d.name) for d in diagnoses().values() for s in d.synonyms if len(s) > 4 or s in ("mole", "wart")]
    return lexicon(forms)


@cache
def site_lexicon() -> Lexicon:
    """Names, synonyms and adjectives of every anatomical site."""
    forms = [(s.name, s.name) for s in sites().values()]
    forms += [(form, s.name) for s in sites().values() for form in (*s.synonyms, *s.adjectives)]
    return lexicon(forms)


def is_negated(text: str, start: int) -> bool:
    """True when a negating word stands up to four words before `start`, in the same sentence."""
    sentence = re.split(r"[.;:!?]\s", text[:start])[-1]
    return NEGATION.search(sentence) is not None


def age_claims(text: str) -> Iterator[TextClaim]:
    """Every age, in digits or in words (a word is a claim too, and never the digits that were asked for)."""
    for match in AGE.finditer(text):
        value = str(match[str(match.lastgroup)])
        yield TextClaim("age", value.lower(), match.start(), match.end())


def sex_claims(text: str) -> Iterator[TextClaim]:
    """Every word that gives the patient a sex."""
    for match in SEX.finditer(text):
        yield TextClaim("sex", str(match.lastgroup), match.start(), match.end())


def site_claims(text: str) -> Iterator[TextClaim]:
    """Every anatomical site that is named, but for words inside a diagnosis' own name (acral lentiginous melanoma)."""
    names = [(start, end) for _, start, end in diagnosis_lexicon().find(text)]
    for term, start, end in site_lexicon().find(text):
        inside_name = any(left <= start < right for left, right in names)
        if not inside_name and not NOT_A_SITE.search(text[:start]):
            yield TextClaim("site", term, start, end, negated=is_negated(text, start))


def diagnosis_claims(text: str) -> Iterator[TextClaim]:
    """Every diagnosis that is named, negated or not."""
    for term, start, end in diagnosis_lexicon().find(text):
        yield TextClaim("diagnosis", term, start, end, negated=is_negated(text, start))


def malignancy_claims(text: str) -> Iterator[TextClaim]:
    """Every word for benign or malignant that is not part of a diagnosis' own name."""
    names = [(start, end) for _, start, end in diagnosis_lexicon().find(text)]
    for match in MALIGNANCY.finditer(text):
        if not any(start <= match.start() < end for start, end in names):
            value = {"precancerous": "pre-cancerous"}.get(str(match.lastgroup), str(match.lastgroup))
            yield TextClaim("malignancy", value, match.start(), match.end(), negated=is_negated(text, match.start()))
