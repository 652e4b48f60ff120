"""Function words that change what the phrases next to them claim: negations and qualifiers. Pure.

"Another melanoma", "near the nose", "not denied", "more than 6 mm", "the typical veil is present": each word is known
and true by itself, but the whole claims something that was not given.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache

from dermnote_notegen.verify.lexicon import CUE, NEUTRAL, Match, role

DENIED_AFTER = re.compile(
    r"\b(?:is|are|was|were|has|have)(?:\s+(?:all|both|each|been|also|likewise|similarly|equally))*"
    r"(?:n['’]t\b|\s+(?:absent|denied|negative|lacking|missing|never|not|answered in the negative)\b"
    r"|\s+free\s*(?:[.;]|$))|^\s*denied\b",
    re.IGNORECASE,
)
# "Itching: no", "itching (absent)", "itching -", "itch-free"; "itching - no bleeding" means something else.
_ENDS = r"\s*(?:[.;,)|]|$)"
DENIED_AT_ONCE = re.compile(
    r"\s*[:=(]\s*(?:no|false|none)\b|-free\b"
    r"|\s*\(?[-–−](?:ve)?\)?\s*(?:[.;,|]|$)|\s*,\s*(?:no|nil)\s*(?:[.;|]|$)"
    r"|\s+(?:(?:and|or) \w+ )?(?:he|she|the patient) denies\s*(?:[.;,]|$)"  # "bleeding and pain he denies"
    r"|\s+(?:he|she|it) (?:has|does|did|is|was|had) not\b[^.;,]{,12}(?:[.;,]|$)"  # "pain it does not give"
    r"|\s*[:=(–—-]?\s*(?:not(?: (?:present|reported|noted|recorded|seen|there|involved|affected|done))?|absent|denied"
    rf"|negative|neg|none|no|nil|missing|n){_ENDS}",
    re.IGNORECASE,
)
LIKEWISE = re.compile(r"\b(?:as|so) (?:is|was|are|were|has|have) (?:the |any )?$", re.IGNORECASE)
DENIED_BEFORE = re.compile(r"\b(?:no|not|nor|neither|without|absent|denied|denies|negative|lacking)\b", re.IGNORECASE)
MINUS = re.compile(r"(?:^|[\s,;(])[-−–]$")
OTHER_SUBJECT = re.compile(r"\b(?:is|are|was|were|it|he|she|patient|lesion|that|which|who)\b", re.IGNORECASE)
AFFIRMED_AFTER = re.compile(
    r"\s*(?:(?:is|was|are|were) )?(?:reported|present|noted|positive|yes|confirmed)\b|\s*\(?\+", re.IGNORECASE
)
JOINED = ("or", "nor", "and")
OR = re.compile(r"\b(?:or|nor)\b", re.IGNORECASE)
# "Elevation, pain and itching are absent".
ALL_DENIED_AFTER = re.compile(
    r"(?:,? (?:and |or )?(?!is\b|are\b|was\b|were\b|whereas\b|but\b|while\b)[\w-]+|/[\w-]+){1,4}"
    r"(?: (?:(?:are|were) (?:all |both |each )?|all |both )"
    r"(?:absent|denied|lacking|missing|negative|answered in the negative"
    r"|not(?: (?:present|reported|noted|seen)|\s*(?:[.;,]|$)))"
    r"|\s*:\s*(?:none|no|nil|absent|denied)\b)"
    r"|(?:, [\w-]+){0,3},? (?:and|or) [\w-]+ (?:absent|denied)\b",
    re.IGNORECASE,
)
# Role of a word -> the fields of the phrases that it must not precede.
QUALIFIED = {
    "others": ("diagnosis", "site"),
    "beside": ("site",),
    "lessening": ("findings.asymmetry", "findings.border", "findings.colours"),
}
BY_SOMEONE = re.compile(
    r"\b(?:examined|seen|assessed|reviewed|photographed|documented|recorded) by an? (?:\S+ )?$", re.IGNORECASE
)
SOMEONE_WHO = re.compile(
    r"(?:\b(?:who|he|she)|(?:^|[.;,]\s*)(?:the |this )?(?:patient|man|woman|boy|girl|person))"
    r"\s+(?:has|had|is|was)(?:\s+not)?\s*$",
    re.IGNORECASE,
)
OF_THE_LESION = ("symptoms.grew", "symptoms.changed", "symptoms.elevation")
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


def _kind(match: Match) -> str:
    """The kind of claim: symptoms, findings, or the field."""
    return match.meanings[0].field.split(".")[0] if match.meanings else ""


class Negation:
    """Tracks whether the next phrase is denied. A negating word begins a denial; certain words or a comma end it."""

    def __init__(self, text: str) -> None:
        self.is_on = False
        self._text = text
        self._negator = ""
        self._denied_kind: str | None = None
        self._fresh = self._separated = False
        self._before = ""
        self._end = 0
        self._before_non: bool | None = None

    def advance(self, match: Match) -> None:
        """Read the next phrase. A negative word that is itself a claim ("non-cancerous") denies nothing after it."""
        gap = self._text[self._end : match.start]
        self._end = match.end
        self._separated = self._separated or "," in gap or ":" in gap
        if self.is_on and self._ends_before(match, gap):
            self.is_on = False
        if self._before_non is not None and self._before != "non":
            self.is_on, self._before_non = self._before_non, None
        if match.words == ("non",):  # "non-bleeding" denies one word
            self._before_non = self.is_on
        if match.claims:
            self._fresh = self._separated = False
            self._denied_kind = self._denied_kind or _kind(match)
        for word in () if match.claims else match.words:
            if word in role("negators") and not self._is_predicate(match):
                self.is_on, self._fresh, self._separated = True, True, False
                self._negator, self._denied_kind = word, None
            elif word not in role("resets"):
                self._fresh = self._fresh and word in role("fresh")  # "denies that it itches"
            elif not self._fresh:  # "nor is it": right after a negator these words don't end the denial
                self.is_on = False
        self._before = match.words[-1]

    def skip_claim(self, field: str) -> None:
        """Read a claim found by pattern, such as a history; "no itch in this 61-year-old" doesn't deny the age."""
        if self._denied_kind is not None and not field.endswith("_hx_mm"):
            self.is_on = False
        self._denied_kind = self._denied_kind or field

    def _ends_before(self, match: Match, gap: str) -> bool:
        """True if the denial ends before this phrase. `gap`: the text since the previous one."""
        if "|" in gap or " / " in gap or (":" in gap and self._denied_kind is not None):  # "no pain: bleeding"
            return True
        if self._negator in role("negate_one") and self._before == "and" and match.words[0] in role("finite"):
            return True  # "does not hurt and bleeds"
        if not match.claims:
            return False
        other_kind = self._denied_kind not in (None, _kind(match))
        return (other_kind and self._before not in JOINED) or (self._separated and self._ends_at_comma(match))

    def _ends_at_comma(self, match: Match) -> bool:
        """True if a comma ends the denial: "not itchy, raised", "no pain, growth reported", "without pain, red".

        "No itching, bleeding or pain" is denied as a whole.
        """
        if AFFIRMED_AFTER.match(self._text, match.end) or self._denied_kind not in (None, _kind(match)):
            return True
        return self._negator in role("negate_one") and not OR.search(self._text, match.start)

    def _is_predicate(self, match: Match) -> bool:
        """True for a word that denies what precedes it: "absent" in "pain is absent"."""
        return match.words[0] in role("predicates") and len(match.words) == 1 and self._before in role("copulas")


def denial_after(text: str, end: int) -> int | None:
    """The end of a denial that comes after `end` and denies the words before it; None if there is none."""
    if DENIED_AT_ONCE.match(text, end):
        return len(text)
    rest = re.split(r"[,:]|\b(?:but|while|and (?:is|was|has))\b", text[end:])[0]
    denial = DENIED_AFTER.search(rest)
    if denial is None or OTHER_SUBJECT.search(rest, 0, denial.start()):
        return None
    return end + denial.end()


def is_denied_likewise(text: str, start: int) -> bool:
    """True if the text before a phrase denies it too: "itch is denied, as is bleeding", "so is pain", "-itch"."""
    if MINUS.search(text, 0, start):
        return True
    likewise = LIKEWISE.search(text, 0, start)
    return likewise is not None and DENIED_BEFORE.search(text, 0, likewise.start()) is not None


def is_denied_with_others(match: Match, text: str) -> bool:
    """True for all nouns but the last of "elevation, pain and itching are absent"."""
    return match.words[-1] in role("symptom_nouns") and ALL_DENIED_AFTER.match(text, match.end) is not None


def is_denied_itself(text: str, start: int) -> bool:
    """True if the word itself is denied: in "not a woman", but not in "no history of melanoma in this woman"."""
    return DENIED_ITSELF.search(text, 0, start) is not None


def is_of_someone(field: str, text: str, start: int) -> bool:
    """True for another person's sex ("examined by a woman") or the patient's own growth ("a boy who has grown")."""
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
    """The span that claims a typical finding for this lesion: "this melanoma typically", "the typical veil is present".

    A sentence that calls something typical and names no finding counts as such a claim. An adverb ("typically") makes
    a sentence general; an adjective ("typical") with an assertion does not. None for a general sentence.
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
    """True if a text says that something is present: "there is a veil", "a veil is seen"."""
    return SAID_TO_BE_HERE.search(text) is not None


def _is_asserted(text: str, cue: Match, finding: Match) -> bool:
    return says_it_is_here(text) or (finding.start < cue.start and not SAYS_IS.search(text))
