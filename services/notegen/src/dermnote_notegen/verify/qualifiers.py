"""Qualifiers: function words that change the meaning of the next phrase. Pure functions, independent of the facts.

"Another melanoma", "near the nose", "not denied", "more than 6 mm", "the typical veil is present": each word is known
and true by itself, but the whole claims something that was not given.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache

from dermnote_notegen.verify.lexicon import CUE, NEUTRAL, Match, role

# Role of a word -> the fields of the phrases that it must not precede.
QUALIFIED = {
    "others": ("diagnosis", "site"),
    "beside": ("site",),
    "lessening": ("findings.asymmetry", "findings.border", "findings.colours"),
}
BOUND = re.compile(
    r"(?:\b(?:(?:less|more|greater|fewer|larger|smaller|longer|shorter|older|younger|bigger) than|at least|at most"
    r"|up to|short of|(?:grown|increased|enlarged) by|over|under|above|below|before|after|until|exceed(?:s|ing)"
    r"|nearly|almost|not)"
    r"\s+(?:an?\s+|the\s+)?|[<>≤≥±~≈]\s*)$",
    re.IGNORECASE,
)
BOUND_AFTER = re.compile(
    r"\s*(?:(?:or|and) (?:more|less|so|over|older|younger|above|below|under)|at (?:least|most)|from)\b", re.IGNORECASE
)
ABOUT = re.compile(r"\b(?:about|around|approximately|approx\.?|roughly|circa)\s+$", re.IGNORECASE)
_THING = r"(?:lesion|image|photograph|picture|record|clinic|hospital|department|dermatologist)"
THING_BEFORE = re.compile(rf"\b{_THING}\s+(?:(?:on file\s+|on record\s+)?(?:is|was)\s+)?$", re.IGNORECASE)
BY_SOMEONE = re.compile(
    r"\b(?:examined|seen|assessed|reviewed|photographed|documented|recorded) by an? (?:\S+ )?$", re.IGNORECASE
)
SOMEONE_WHO = re.compile(
    r"(?:\b(?:who|he|she)|(?:^|[.;,]\s*)(?:the |this )?(?:patient|man|woman|boy|girl|person))"
    r"\s+(?:has|had|is|was)(?:\s+not)?\s*$",
    re.IGNORECASE,
)
OF_THE_LESION = ("symptoms.grew", "symptoms.changed", "symptoms.elevation")
THING_AFTER = re.compile(rf"\s*{_THING}\b", re.IGNORECASE)
DENIED_ITSELF = re.compile(r"(?:\b(?:not?|never|non)|n['’]t)(?:\s+an?|\s+the)?[\s-]+$", re.IGNORECASE)
SAID_TO_BE_HERE = re.compile(
    r"\bthere (?:is|are|was|were)\b|\bdermat?oscopy (?:shows?|showed|reveals?|revealed|displays?|demonstrates?)\b"
    r"|\b(?:is|are|was|were) (?:seen|visible|evident|present|noted|found|observed|apparent)\b"
    r"(?=\s*(?:[.,;:)]|$)|\s+(?:here|now|on|at|by)\b|\s+in\s+(?:this|the|his|her)\b)",
    re.IGNORECASE,
)
# Turns a typical finding into one of this lesion, regardless of the rest of the sentence.
HERE_TOO = re.compile(
    r"\bwith (?:the|its|his|her) (?:usual|typical|characteristic|classic|classical|common)\b"
    r"|^\s*this is an? (?:usual|typical|characteristic|classic|classical|common)\b"
    r"|, which (?:is|was|are|were) (?:found|seen|noted|present|observed)\b"
    r"|[:(]\s*(?:yes|present|confirmed|noted|seen)\b|\bpresent in the (?:image|lesion|picture)\b"
    r"|\bthis (?:shows|has|displays|exhibits)\b",
    re.IGNORECASE,
)
SAYS_IS = re.compile(
    r"\b(?:is|are|was|were|be|being|includ(?:es?|ing)|comprises?|consists?|count among|belongs? to|makes? up"
    r"|constitutes?|helps?|forms?|defines?|ranks? (?:with|among)|shows?|has|have|presents?|finds?"
    r"|sees?|displays?|exhibits?)\b",
    re.IGNORECASE,
)


def bound(text: str, start: int, end: int) -> str:
    """The words that make a number a bound: "more than" 6 mm, 6 mm "or more", "almost" 61; empty without any."""
    match = BOUND.search(text, 0, start) or BOUND_AFTER.match(text, end)
    return match[0].strip().lower() if match else ""


def vague(text: str, start: int, end: int) -> str:
    """Whether an age is not the patient's ("a 61-year-old photograph") or uncertain ("about 61 years old")."""
    if THING_BEFORE.search(text, 0, start) or THING_AFTER.match(text, end):
        return "thing of"
    return "about" if ABOUT.search(text, 0, start) else ""


def is_denied_itself(text: str, start: int) -> bool:
    """ "Not a woman" denies the person; "no history of melanoma in this woman" does not."""
    return DENIED_ITSELF.search(text, 0, start) is not None


def is_of_someone(field: str, text: str, start: int) -> bool:
    """ "Examined by a woman", "a boy who has grown": not the patient's sex, not the lesion's growth."""
    if field == "sex":
        return BY_SOMEONE.search(text, 0, start) is not None
    return field in OF_THE_LESION and SOMEONE_WHO.search(text, 0, start) is not None


def qualified(matches: Sequence[Match], text: str) -> Iterator[tuple[str, int, int]]:
    """Phrases that the word before them makes false ("another melanoma"): the kind of fault, and the span."""
    before: Match | None = None
    for match in matches:
        if before is not None and _between().fullmatch(text, before.end, match.start):
            yield from ((fault, before.start, match.end) for fault in _faults(before, match))
        if match.words[-1] not in role("passed_over"):
            before = match


@cache
def _between() -> re.Pattern[str]:
    """The words allowed between a qualifier and the phrase it changes: "not really without", "near the nose"."""
    return re.compile(rf"[\s-]+(?:(?:{'|'.join(sorted(role('passed_over')))})\s+)*", re.IGNORECASE)


def _faults(word: Match, match: Match) -> Iterator[str]:
    if _denies(word) and (_denies(match) or match.says_no):
        yield "hedging"
    for name, fields in QUALIFIED.items():
        thing = name == "others" and match.words[0] in role("things")
        if word.words[-1] in role(name) and (thing or any(match.value(field) for field in fields)):
            yield name


def _denies(match: Match) -> bool:
    return not match.claims and not role("negators").isdisjoint(match.words)


def typical_here(matches: Sequence[Match], text: str) -> tuple[int, int] | None:
    """The span that claims a typical finding of this lesion: "this melanoma typically", "the typical veil is present".

    So does a sentence that calls something typical and names no finding. An adverb ("typically") makes a sentence
    general; an adjective ("typical") with an assertion does not. None for a general sentence.
    """
    cues = [match for match in matches if match.is_cue]
    if not cues:
        return None
    if match := HERE_TOO.search(text):
        return match.span()
    findings = [match for match in matches if match.is_finding]
    is_general = _has_adverb(cues)
    if not findings or (not is_general and _is_asserted(text, cues[0], findings[0])):
        return _this_one(matches, cues) or (cues[0].start, cues[0].end)
    return (
        _this_one(matches, cues) or (None if is_general else _this_one_acts(matches)) or _here(matches, cues, findings)
    )


def _this_one(matches: Sequence[Match], cues: Sequence[Match]) -> tuple[int, int] | None:
    """The span of "this melanoma", or of "its" and a finding at the start of the sentence."""
    for this, named in itertools.pairwise(match for match in matches if match not in cues):
        if this.words == ("this",) and (named.value("diagnosis") or named.is_finding):
            return this.start, named.end
    for its, cue in itertools.pairwise(matches[1:]):
        if its.words == ("its",) and cue.is_cue and not _has_adverb([cue]):  # "an angioma and its typical lacunae"
            return its.start, cue.end
    begins = len(matches) > 1 and matches[0].words == ("its",) and matches[1].is_finding
    return (matches[0].start, matches[1].end) if begins else None


def _here(matches: Sequence[Match], cues: Sequence[Match], findings: Sequence[Match]) -> tuple[int, int] | None:
    """The span of "here" after a typical finding."""
    for match in matches:
        if match.words == ("here",) and match.start > max(cues[0].start, findings[0].start):
            return match.start, match.end
    return None


def _this_one_acts(matches: Sequence[Match]) -> tuple[int, int] | None:
    """The span of "the melanoma shows", with an article, "his" or "her" before the name."""
    for before, named, verb in zip(matches, matches[1:], matches[2:], strict=False):
        if before.words[0] in role("one_here") and named.value("diagnosis") and verb.words[0] in role("shows"):
            return before.start, verb.end
    return None


def _has_adverb(cues: Sequence[Match]) -> bool:
    return any(word.endswith("ly") or word in role("adverbs") for cue in cues for word in cue.words) or any(
        cue.value(NEUTRAL) == CUE for cue in cues
    )


def says_it_is_here(text: str) -> bool:
    """ "There is a veil", "a veil is seen"."""
    return SAID_TO_BE_HERE.search(text) is not None


def _is_asserted(text: str, cue: Match, finding: Match) -> bool:
    return says_it_is_here(text) or (finding.start < cue.start and not SAYS_IS.search(text))
