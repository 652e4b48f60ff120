"""Wordings of facts: regular expressions for each field of the metadata, and the connecting words.

Spellings of terms come from the contracts' vocabularies.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from dermnote_contracts.vocabulary import diagnoses, sites

NUMBER = r"(\d+(?:\.\d+)?)"
_SPELLINGS: tuple[tuple[str, str], ...] = (
    ("grey", "gray"),
    ("colour", "color"),
    ("characterise", "characterize"),
    ("naev", "nev"),
    ("haem", "hem"),
)
_SPELLINGS += (("rrhoe", "rrhe"), ("tumour", "tumor"), ("centre", "center"), ("metre", "meter"))


def normalise(text: str) -> str:
    """Lower case, American spelling, no accents, hyphens as spaces, one space between words."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).lower()
    plain = re.sub(r"[\u2018\u2019]", "'", re.sub(r"[\u2010-\u2012]", "-", plain))
    plain = re.sub(r"\s+[-\u2013\u2014]\s+|\u2014", ", ", plain)
    plain = re.sub(r"(?<=\w)[-\u2013](?=\w)", " ", plain)
    for british, american in _SPELLINGS:
        plain = plain.replace(british, american)
    return re.sub(r"\s+", " ", plain).strip()


def any_of(spellings: Iterable[str]) -> str:
    """A regular expression that matches any of the spellings, longest first."""
    return "|".join(re.escape(spelling) for spelling in sorted(spellings, key=lambda s: (-len(s), s)))


def _plurals(spelling: str) -> set[str]:
    forms = {spelling, f"{spelling}s"}
    for one, many in (("nevus", "nevi"), ("keratosis", "keratoses"), ("sarcoma", "sarcomata")):
        forms |= {spelling.replace(one, many)}
    return forms


@cache
def diagnosis_names(extra: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """Every spelling of every diagnosis -> the vocabulary's term for it; `extra` adds the synonyms of a prior."""
    spelled = [(spelling, name) for name, d in diagnoses().items() for spelling in (name, *d.synonyms)]
    names: dict[str, str] = {}
    for spelling, name in [*spelled, *extra]:
        for form in _plurals(normalise(spelling)):
            names.setdefault(form, name)
    return names


@cache
def diagnosis_regex(extra: tuple[tuple[str, str], ...] = ()) -> re.Pattern[str]:
    """Matches any spelling of any diagnosis, longest first."""
    return re.compile(rf"(?<!\w)(?:{any_of(diagnosis_names(extra))})(?!\w)")


@cache
def site_names() -> dict[str, str]:
    """Every spelling of every site, including adjectives -> the vocabulary's term for it."""
    named = ((s, name) for name, site in sites().items() for s in (name, *site.synonyms, *site.adjectives))
    return {normalise(spelling): name for spelling, name in named}


@dataclass(frozen=True)
class Wording:
    """One wording of a fact: its expression, and the (path, value) pairs that it claims."""

    regex: re.Pattern[str]
    claims: Callable[[re.Match[str]], list[tuple[str, object]]]


def _says(path: str, value: object, expression: str) -> Wording:
    return Wording(re.compile(rf"(?<!\w)(?:{expression})(?!\w)"), lambda _: [(path, value)])


_PERSON = "|".join(
    f"(?<={noun} )" for noun in ("patient", "person", "individual", "man", "male", "boy", "girl", "lady")
)
_AGE = (
    rf"{NUMBER} (?:years?|yrs?) old|{NUMBER} ?(?:y/o|yo)|{NUMBER} years of age"
    rf"|ag(?:ed?|e (?:of|is|was)|e:) {NUMBER}(?: years)?(?: old)?|(?:{_PERSON})of {NUMBER} years(?: of age| old)?"
)
_SIZE = rf"{NUMBER} ?(mm|millimeters?|cm|centimeters?)(?: long)?"
_TYPE = (
    r"(?:fitzpatrick (?:skin )?(?:photo)?(?:type )?|skin (?:photo)?type |phototype )"
    r"(?:is |of |: )?(vi|iv|v|i{1,3}|[1-6])"
)
_ROMAN = {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V", "6": "VI"}
_SEXES = {
    "male": r"males?|man|gentleman|he|his|him|himself",
    "female": r"females?|woman|lady|she|her|hers|herself",
}
_SYMPTOMS = {
    "itch": r"itch(?:es|ed|ing|y|iness)?|prurit(?:us|ic)",
    "hurt": r"pain(?:s|ful)?|hurt(?:s|ing)?|sore(?:ness)?|tender(?:ness)?|aches?|aching",
    "grew": r"growth|gr[eo]w(?:s|n|ing)?|enlarg(?:e[sd]?|ing|ement)|increas(?:e[sd]?|ing) in size"
    r"|(?:become|became|becoming|got|gotten|getting) (?:larger|bigger)",
    "changed": r"(?:chang(?:e[sd]?|ing)|alter(?:ed|ations?))(?: (?:in|of) (?:its |the )?appearance)?",
    "bleed": r"bleed(?:s|ing)?|bled|hemorrhag(?:e|es|ing)",
    "elevation": r"elevat(?:ion|ed)|raised",
}
BORDER_NOUN = r"(?:borders?|margins?|edges?|contours?|outlines?)"
SHAPE_NOUN = r"(?:shapes?|outlines?|forms?|contours?)"
_SHARP = r"(?:sharp(?! pain)|(?:sharply|well|clearly) (?:defined|demarcated|circumscribed)|distinct)"
_VAGUE = r"(?:indistinct|ill defined|poorly (?:defined|demarcated)|blurr(?:ed|y))"
_SOME = r"in (?:part|parts|places|some (?:parts|places|areas))"
_REST = r"(?:in (?:part|parts|places|others?|(?:other|some) (?:parts|places|areas))|elsewhere)"
_BORDERS = {
    "mixed": rf"partly {_SHARP}(?: {BORDER_NOUN})? (?:and|but) partly {_VAGUE}"
    rf"|partly {_VAGUE} (?:and|but) partly {_SHARP}"
    rf"|{_SHARP} {_SOME} (?:and|but) {_VAGUE} {_REST}|{_VAGUE} {_SOME} (?:and|but) {_SHARP} {_REST}"
    rf"|both {_SHARP} and {_VAGUE}|mixed(?= {BORDER_NOUN})|(?:(?<=border is )|(?<=border appears )|(?<=border: ))mixed",
    "sharp": _SHARP,
    "indistinct": _VAGUE,
}
COLOURS = {
    "white": "white", "red": "red", "light brown": "light brown|tan", "dark brown": "dark brown",
    "blue-gray": "blue gray|bluish gray|gray blue", "black": "black", "brown": "brown",
}  # fmt: skip
STRUCTURES = {
    "structureless": r"structureless(?: (?:areas?|zones?|pattern))?",
    "pigment network": r"pigment(?:ed)? networks?",
    "branched streaks": r"(?:branched )?streaks",
    "dots": "dots",
    "globules": "globules",
}
IMAGE_KEYS = {
    "dermoscopic": r"derm(?:at)?oscop(?:ic|y|ically)", "clinical": "clinical", "close up": "close up",
    "overview": "overview", "macroscopic": "macroscopic", "tile": "tile", "mosaic": "mosaic",
    "rcm": r"(?:reflectance )?confocal microscop(?:y|ic)|rcm", "tbp": r"total body photograph(?:y|ic)|tbp",
}  # fmt: skip
_IMAGE_WORD = "|".join([*IMAGE_KEYS.values(), "images?", "photographs?", "photos?", "pictures?", "view"])


def _image(found: re.Match[str]) -> list[tuple[str, object]]:
    keys = frozenset(key for key, word in IMAGE_KEYS.items() if re.search(rf"\b(?:{word})\b", found[0]))
    return [("image_type", keys)] if keys else []


def _size(found: re.Match[str]) -> list[tuple[str, object]]:
    return [("clin_size_long_diam_mm", round(float(found[1]) * (10 if found[2].startswith("c") else 1), 6))]


@cache
def wordings() -> tuple[Wording, ...]:
    """Every wording except those of diagnoses and histories, in the order in which they are removed."""
    both_browns: list[tuple[str, object]] = [("findings.colours", "light brown"), ("findings.colours", "dark brown")]
    return (
        Wording(re.compile(rf"\b(?:{_IMAGE_WORD})(?: (?:{_IMAGE_WORD}|of|from|by|a|the))*\b"), _image),
        Wording(re.compile(rf"\b{_TYPE}\b"), lambda m: [("fitzpatrick_skin_type", _ROMAN.get(m[1], m[1].upper()))]),
        Wording(re.compile(rf"(?<![\w.])(?:{_AGE})(?!\w|\.\d)"), lambda m: [("age", float(m[m.lastindex or 0]))]),
        Wording(re.compile(rf"(?<![\w.]){_SIZE}\b"), _size),
        Wording(re.compile(rf"(?<!\w)(?:{any_of(site_names())})(?!\w)"), lambda m: [("site", site_names()[m[0]])]),
        Wording(
            re.compile(r"(?<!\w)(?:indeterminate(?:/(?:benign|malignant))?|benign|malignant|pre ?cancerous)(?![\w/])"),
            lambda m: [("benign_malignant", m[0].replace("pre cancerous", "pre-cancerous").replace("prec", "pre-c"))],
        ),
        *(_says("sex", sex, words) for sex, words in _SEXES.items()),
        Wording(re.compile(r"\bboy\b"), lambda _: [("sex", "male"), ("life stage", "minor")]),
        Wording(re.compile(r"\bgirl\b"), lambda _: [("sex", "female"), ("life stage", "minor")]),
        _says("life stage", "minor", "child"),
        _says("life stage", "adult", "adult"),
        *(_says(f"symptoms.{name}", None, words) for name, words in _SYMPTOMS.items()),
        _says("findings.asymmetry", "asymmetric", r"asymmetr(?:ic|ical|ically|y)"),
        _says("findings.asymmetry", "symmetric", r"symmetr(?:ic|ical|ically|y)"),
        *(_says("findings.border", border, words) for border, words in _BORDERS.items()),
        Wording(re.compile(r"\blight and dark brown\b"), lambda _: both_browns),
        *(_says("findings.colours", colour, words) for colour, words in COLOURS.items()),
        *(_says("findings.structures", structure, words) for structure, words in STRUCTURES.items()),
    )


# Phrases without a claim, although some of their words are claims elsewhere; only whole phrases are removed.
PHRASES = (
    r"\bclinical (?=examination|evaluation|assessment|review|history|note|findings?|features?|diagnosis)",
    r"\bunder (?=evaluation|examination|review|assessment|inspection)|\bmarked by\b|\bas well(?: as)?\b",
    r"\bbecause of (?=an? |the |this )|\basked about (?:the )?symptoms\b|\bsymptoms(?=:| include| such as)",
    r"\b(?:longest|largest|maximum|greatest) (?=diameter|dimension)|\bat its widest\b",
)
_ADVERB = "(?:typically|characteristically|usually|commonly|often|frequently|classically|generally)"
TYPICAL_PHRASES = (
    rf"^(?:the |this )?(?:lesion|it) (?=(?:is )?(?:{_ADVERB}|tends)\b)",
    r"^(?:(?:in|for) )?(?:which|where)\b|^(?:while|whereas)\b",
    r"^as (?:is|are)\b|^it is (?=(?:typical|characteristic|common|usual) to see\b)",
    r"\bthis (?=diagnosis|type|kind|condition)",
    rf"\bone (?:can )?(?:{_ADVERB} )?(?:finds?|sees?)\b|\b{_ADVERB} (?:seen|found|observed|present)\b|(?<=to )see\b",
    r"\b(?:seen|found|observed) (?=(?:typically|characteristically|usually|commonly|often|frequently)\b)",
    r"\b(?:derm(?:at)?oscop(?:ic|y|ically)|clinical(?:ly)?)\b|\bpresents? (?=with\b)",
)
COLOUR_NOUN = r"(?<!skin )\b(?:colors?|coloring|coloration|hues?)\b"
CONNECTORS = frozenset(
    re.findall(
        r"\S+",
        """a an the this that which it its their they and or also as of in on at to for from by with there is
        are was were be been being has have had does do did any who 's
        patient person individual lesion skin cutaneous note record records report reports case history
        finding findings feature features structure structures diameter dimension size
        across after site location sex gender age diagnosis classification image examination
        evaluation assessment review inspection clinic summary
        examined evaluated assessed reviewed inspected seen presents presented presenting present attended came
        describes described describing documented noted recorded entered
        photographed found located situated involving affecting arising
        shows show showing shown displays displaying exhibits exhibiting demonstrates demonstrating reveals revealing
        includes include including reported reporting experienced experiences experiencing complains complaining
        confirms confirmed confirming classified diagnosed consistent compatible measures measuring measured
        holds taken obtained appears appearing visible observed positive class subclass""",
    )
)
TYPICAL_CONNECTORS = frozenset(
    re.findall(
        r"\S+",
        """a an the these such and or as well also both to of in for on with by is are be can its their
        show shows include includes including comprise comprises has have display displays exhibit exhibits
        feature features finding findings sign signs
        appearance appearances diagnosis type kind condition entity lesions
        typical typically characteristic characteristically characterized usual usually common commonly often frequently
        classic classical classically generally tend tends hallmark hallmarks""",
    )
)
