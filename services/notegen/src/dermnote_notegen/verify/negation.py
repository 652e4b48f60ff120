"""Negation: what a sentence denies, before and after the denied words. Pure functions, independent of the facts."""

import re

from dermnote_notegen.verify.lexicon import Match, role

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


def _kind(match: Match) -> str:
    """The kind of claim: symptoms, findings, or the field."""
    return match.meanings[0].field.split(".")[0] if match.meanings else ""


class Negation:
    """Whether the next phrase is denied: from a negating word to a word or comma that ends the denial."""

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
        """ "Not itchy, raised", "no pain, growth reported", "without pain, red": not denied after the comma.

        "No itching, bleeding or pain" is denied as a whole.
        """
        if AFFIRMED_AFTER.match(self._text, match.end) or self._denied_kind not in (None, _kind(match)):
            return True
        return self._negator in role("negate_one") and not OR.search(self._text, match.start)

    def _is_predicate(self, match: Match) -> bool:
        """ "Pain is absent" denies what precedes it."""
        return match.words[0] in role("predicates") and len(match.words) == 1 and self._before in role("copulas")


def denial_after(text: str, end: int) -> int | None:
    """Where a denial of the words before `end` ends, so that it might deny what follows; None without one."""
    if DENIED_AT_ONCE.match(text, end):
        return len(text)
    rest = re.split(r"[,:]|\b(?:but|while|and (?:is|was|has))\b", text[end:])[0]
    denial = DENIED_AFTER.search(rest)
    if denial is None or OTHER_SUBJECT.search(rest, 0, denial.start()):
        return None
    return end + denial.end()


def is_denied_likewise(text: str, start: int) -> bool:
    """ "Itching is denied, as is bleeding", "itch is absent, and so is pain", "-itch": denied by what precedes."""
    if MINUS.search(text, 0, start):
        return True
    likewise = LIKEWISE.search(text, 0, start)
    return likewise is not None and DENIED_BEFORE.search(text, 0, likewise.start()) is not None


def is_denied_with_others(match: Match, text: str) -> bool:
    """True for all but the last noun of "elevation, pain and itching are absent"."""
    return match.words[-1] in role("symptom_nouns") and ALL_DENIED_AFTER.match(text, match.end) is not None
