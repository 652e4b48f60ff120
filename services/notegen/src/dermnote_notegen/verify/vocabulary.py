"""Builds the lexicon: vocabularies, the priors' findings and words/*.toml as phrases with meanings. Pure functions."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache

from dermnote_contracts.vocabulary import diagnoses, sites
from dermnote_notegen.verify.lexicon import (
    CUE,
    FINDING,
    JOINING_WORDS,
    NEUTRAL,
    OF_THE_DIAGNOSIS,
    Lexicon,
    Meaning,
    phrase,
    read,
    role,
)

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
# Diagnosis names of at most 4 letters, except SHORT_NAMES, are codes such as "df" or "mel", valid in capitals only.
MAX_CODE_LETTERS = 4
SHORT_NAMES = ("nevi", "mole", "wart", "acne")


def note_lexicon(wordings: Iterable[str]) -> Lexicon:
    """The verifier's lexicon. `wordings`: those of all priors' findings.

    If a phrase has several entries for one field, the first wins; only colours keep all of them.
    """
    general = ((words, Meaning(NEUTRAL, OF_THE_DIAGNOSIS)) for words in _of_the_diagnosis())
    phrases = ((words, Meaning(NEUTRAL, value)) for words, value in _special_phrases())
    neutral = ((word, Meaning(NEUTRAL, word)) for word in _neutral_words())
    findings = _findings(set(wordings))
    entries = [*_diagnoses(), *_sites(), *_claims(), *findings, *general, *_in_general(), *phrases, *neutral]
    codes = frozenset(name for diagnosis in diagnoses().values() for name in diagnosis.synonyms if _is_code(name))
    return Lexicon(entries, capitals=codes)


def _special_phrases() -> Iterator[tuple[str, str]]:
    """Neutral phrases with a special meaning in a sentence."""
    lists = read("neutral")
    for verb, words in itertools.product(("", "is ", "are "), lists["joining"]["phrases"]):
        yield f"{verb}{words}", JOINING_WORDS
    yield from ((words, CUE) for words in lists["cues"]["phrases"])


def _of_the_diagnosis() -> Iterator[str]:
    """References to the diagnosis without its name: "this condition", "lesions of this type", "typical of it"."""
    lists = read("neutral")["of_the_diagnosis"]
    for name in lists["names"].split():
        yield from (f"{which} {name}" for which in lists["which"].split())
    yield from lists["phrases"]
    for cue, word, pronoun in itertools.product(lists["cues"].split(), lists["prepositions"].split(), ("it", "them")):
        yield f"{cue} {word} {pronoun}"


def _in_general() -> Iterator[tuple[str, Meaning]]:
    """General statements: "may typically" show and "typically looks like" are neutral, "may often be" is hedging."""
    lists = read("neutral")["in_general"]
    for adverb, verb in itertools.product(lists["adverbs"].split(), lists["verbs"].split()):
        for form in (f"{verb} {adverb}", f"{adverb} {verb}", f"{verb} also {adverb}"):
            yield form, Meaning(NEUTRAL, form)
            yield f"{form} be", Meaning("never.hedging", form)
    for adverb, verb in itertools.product(lists["adverbs"].split(), lists["likened"].split()):
        yield f"{adverb} {verb} like", Meaning(NEUTRAL, adverb)


def _is_code(name: str) -> bool:
    return len(name) <= MAX_CODE_LETTERS and name not in SHORT_NAMES


def _diagnoses() -> Iterator[tuple[str, Meaning]]:
    for diagnosis in diagnoses().values():
        for name in (diagnosis.name, *diagnosis.synonyms):
            for form in (name,) if _is_code(name) else (name, *_latin_plurals(name)):
                yield form, Meaning("diagnosis", diagnosis.name)
                for bound in (" more than", " less than"):
                    yield form.replace(bound, f" of{bound}"), Meaning("diagnosis", diagnosis.name)
                if diagnosis.superclass in phrase(form):  # "malignant melanoma"
                    yield form, Meaning("malignancy", diagnosis.superclass)


def _latin_plurals(form: str) -> Iterator[str]:
    """Irregular plurals: "keratoses", "blue nevi", "nevi spili"."""
    if " " in form and all(word.endswith("us") for word in form.split()):
        yield re.sub(r"us\b", "i", form)
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
    lists = read("claims")
    for name, forms in lists["symptoms"].items():
        for form in forms:
            yield form, Meaning(f"symptoms.{name}", "yes")
            yield f"asked about {form}", Meaning("never.hedging", form)  # the answer is missing
            yield f"history of {form}", Meaning(f"symptoms.{name}", "yes")
    for group in ("asymmetry", "border", "colours", "structures"):
        for value, forms in lists[group].items():
            yield from ((form, Meaning(f"findings.{group}", value)) for form in forms)
    for form, values in lists["broader_colours"].items():
        yield form, Meaning("findings.colours", "|".join(values))
    for field in ("sex", "age", "image_type", "malignancy", "tumour"):
        for value, forms in lists[field].items():
            yield from ((form, Meaning(field, value)) for form in forms)
    for field, forms in lists["never"].items():
        yield from ((form, Meaning(f"never.{field}", form)) for form in forms)


def _findings(wordings: set[str]) -> Iterator[tuple[str, Meaning]]:
    """Each word of the wordings, and whole wordings of which a part would claim or deny something else.

    "Scar-like patch" is not a scar, "milia-like cysts" are not milia, "a lack of pigment network" denies no given fact.
    """
    elsewhere = Lexicon([*_diagnoses(), *_sites(), *_claims()])
    for wording in sorted(wordings):
        others = {m.field for match in elsewhere.scan(wording) for m in match.meanings}
        denies = any(word in role("negators") for word in phrase(wording))
        if denies or any(not field.startswith(("findings.", "symptoms.elevation")) for field in others):
            yield re.sub(r"^(?:an?|the) ", "", wording), Meaning(FINDING, wording)
    found = {word for wording in wordings for word in phrase(wording)} - set(_neutral_words())
    looks = read("claims")["other_findings"]
    known = found.union(looks)
    for word in sorted(found.union(_forms())):
        if word not in elsewhere or elsewhere.claims(word, "findings.") or elsewhere.claims(word, "symptoms.elevation"):
            yield word, Meaning(FINDING, _base(word, known))
    for form in looks:
        if form not in elsewhere:
            yield form, Meaning(FINDING, _base(form, known))


@cache
def _forms() -> Mapping[str, str]:
    """Each word of words/forms.toml -> its base form."""
    return {form.replace("-", " "): base for base, forms in read("forms").items() for form in (base, *forms.split())}


def _base(form: str, known: Set[str]) -> str:
    """The base form of a finding word: from words/forms.toml, else the singular or the adjective ("regularly")."""
    bases = (form.removesuffix(ending) for ending in ("es", "s", "ly"))
    return _forms().get(form) or next((base for base in bases if base != form and base in known), form)


@cache
def _neutral_words() -> tuple[str, ...]:
    lists, looks = read("neutral"), read("claims")["other_findings"]
    roles = (
        word
        for name in read("roles")
        for word in sorted(role(name))
        if not {word, word.removesuffix("s"), word.removesuffix("es")}.intersection(looks)
    )
    record = (word for words in read("record").values() for word in words.split())
    return (*lists["words"].split(), *lists["phrases"], *record, *roles)
