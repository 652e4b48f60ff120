"""Histories of melanoma, personal and in the family, read by pattern. Pure; it knows no facts."""

import re
from collections.abc import Iterator
from dataclasses import replace

from dermnote_notegen.verify.claim import TextClaim
from dermnote_notegen.verify.lexicon import NEUTRAL
from dermnote_notegen.verify.negation import is_denied_after

PERSONAL, FAMILY = "personal_hx_mm", "family_hx_mm"
_WHOSE = r"(?:the|his|her|their|whose|the patient's)"
_KIN = r"(?:personal(?:ly)?|own|family|familial)"
_SELF = r"(?:(?:the|this) patient\b(?!['’])|(?:him|her|them)(?:self|selves)?\b(?!\s+\w))"
_OF_MELANOMA = (
    r"histor(?:y|ies)\s*[:,]? (?:(?:is|are|was|were) )?(?:both )?(?:positive |negative )?"
    r"(?:(?:of|for) )?(?:melanomas?|it)"
)
_TOLD = r"(?:seen|diagnosed|reported|recorded|noted|found|documented|observed|known)"
_ANSWER = r"(?:yes|no|none|nil|positive|negative|present|absent)"
# A group's text says whose history it is; without one it is the patient's.
HISTORY = re.compile(
    rf"\b(?:known )?(?P<first>{_KIN})(?:,? (?:(?:and|or|nor)(?: an?)?|(?:and|but)(?P<none> no)) (?P<second>{_KIN}))?"
    rf" {_OF_MELANOMA}\b"
    rf"|\bhistory of melanomas?,? (?P<third>{_KIN})\b(?:,? (?:and|or|nor) (?P<fourth>{_KIN})\b)?"
    rf"|\bmelanoma history,? \(?(?:whether |either )?(?P<ninth>{_KIN}) (?:and|or|nor) (?P<tenth>{_KIN})\b\)?"
    r"|\b(?:history of )?melanomas? (?:also )?(?:has |have )?"
    rf"(?:occurred |been {_TOLD} |{_TOLD} |runs |run )?"
    rf"in (?:{_WHOSE} )?(?P<fifth>family)\b"
    rf"|\bmelanomas? (?:among|in) (?:{_WHOSE} |any )?(?P<among>relatives?|family members?)\b"
    rf"|\bin (?:{_WHOSE} )?(?P<eleventh>family),? (?:there (?:is|was|has been) )?(?:no )?melanomas?\b"
    rf"(?: (?:has|have|is|was) (?:been )?(?:occurred|{_TOLD})\b)?"
    rf"|\b(?:in )?{_WHOSE} (?P<eighth>family) (?:has|have) (?:a )?(?:history of|had(?: an?)?) melanomas?\b"
    rf"|\b(?:(?:positive|negative) )?(?P<sixth>{_KIN}) (?:melanoma history\b|history\s*\(melanomas?\)"
    r"|history(?:\s*:| includes| shows| mentions) (?:no )?melanomas?\b)"
    r"|\b(?:never|previously|once|already) (?:been )?diagnosed with (?:an? )?melanomas?\b(?: before\b)?"
    r"|\b(?P<seventh>relative|family member)s? (?:of (?:his|hers|theirs) )?"
    r"(?:(?:is|are|was|were) (?:known|reported) to )?(?:has |have |had |with )(?:had )?(?:an? )?melanomas?\b"
    r"|\b(?P<short>[FP](?:M?Hx?))\s*(?:of|for|:|=)?\s*melanomas?\b"
    r"|\b(?:past|previous|prior)(?: medical)? history\s*: (?:no )?melanomas?\b"
    rf"|\bmelanomas? in (?:{_WHOSE} )?(?:own )?(?:past|history)\b"
    r"|\bmelanomas? (?:himself|herself)\b"
    r"|\b(?:(?:previously |already |once |known to have )?had (?:an? |no |any )?|previous |prior |earlier |past )"
    r"melanomas?\b"
    r"(?: in the past\b| before\b| previously\b| earlier\b| in (?:his|her|their) (?:own )?(?:past|history)\b)?"
    r"|\bhistory of melanomas?\b",
    re.IGNORECASE,
)
# Told of both at once: "neither he nor his family has a history of melanoma", "melanoma in the patient or the family".
NEITHER = re.compile(
    rf"\bneither (?:he|she|they|the \w+)(?: himself| herself)?(?:,[^,.;]*,)? (?P<nor>nor) "
    rf"(?:anyone in |any member of )?(?:{_WHOSE}|any) (?:family|relative)s?"
    r" (?:members? )?(?:has|have|had)(?: ever| had)*(?: (?:an?|any))?(?: history of)? melanomas?\b",
    re.IGNORECASE,
)
BOTH = re.compile(
    rf"\b(?:history of )?melanomas? (?:both )?(?:in {_SELF}|personally),? (?:or|and|nor) (?:in )?{_WHOSE} family\b"
    rf"|\bboth (?:he|she|they|the patient) and {_WHOSE} family (?:has|have) (?:an? )?"
    r"(?:history of|had(?: an?)?) melanomas?\b",
    re.IGNORECASE,
)
# What a sentence adds to a history told before: "but not in the patient", "none in the family", "personal history no".
ADDED = re.compile(
    rf"\b(?:not|never|none) (?:in {_SELF}|personally\b)"
    rf"|\b(?:(?:there )?(?:is|was|has been) )?(?:none|nor|not|or|also|no such history)(?: (?:is|was) there any)?"
    rf"(?: (?:seen|recorded|reported|present))? in (?:{_WHOSE} )?(?P<family>family)\b"
    rf"|\b(?:none|nobody|no one|no member) (?:of|in) {_WHOSE} (?P<of>family)(?: members)?"
    r"(?: (?:has|have)\b(?: (?:ever )?had (?:it|one|any|melanomas?)\b)?)?"
    rf"|\b{_WHOSE} (?P<has>family) (?:has|have|had) (?:had )?(?:none|it|not)\b"
    rf"|\b(?:(?:the )?(?P<does>{_KIN})(?: history)?|(?:his|her|their) own history) (?:does|is|has|was) not\b"
    rf"|\b(?:so|as) (?:has|have|does|did) (?:an? |some )?(?:members? of )?{_WHOSE} (?P<so>family)\b"
    r"|\bhas had (?:one|it)\b"
    r"|\b(?:he|she|the patient|himself|herself)(?: himself| herself)? has not(?: had (?:it|one|any))?(?=\s*(?:[.;,]|$))"
    rf"|\band (?:so has |in )?{_WHOSE} (?P<too>family)(?: has)?,?(?: too| also| as well)\b"
    rf"|\b(?P<kin>{_KIN}|patient)(?: history)?(?: (?:is|was))?\s*[:=]?\s*{_ANSWER}\b(?! \w)"
    rf"|\b{_WHOSE} (?P<rel>relatives?|family members?) (?:has|have) not\b"
    r"|\bneither (?:has|have|did) (?:he|she|the patient)\b",
    re.IGNORECASE,
)
ABOUT_HISTORY = re.compile(
    r"\b(?:melanoma history|histor(?:y|ies) of melanomas?)\s*:(?=\s*(?:patient|personal|family|own)\b)", re.IGNORECASE
)
# A sentence without one of these tells no history.
HINT = re.compile(
    r"histor|famil|relative|had\b|previous|prior|earlier|past|[fp]m?hx?\b|neither|personal|diagnosed with|has not",
    re.IGNORECASE,
)
DENIED_WITHIN = re.compile(r"\bnegative\b|\bnever\b|\bhad no\b|[:,] no\b|\bfamily,? (?:there \w+ )?no\b", re.IGNORECASE)
DENYING = re.compile(r"\b(?:no|not|none|nil|never|nor|neither|without|denies|denied|negative|absent)\b", re.IGNORECASE)


def histories(text: str, start: int) -> Iterator[TextClaim]:
    """What `text` says of them from `start` on."""
    if HINT.search(text, start) is None or "melanoma" not in text.lower():
        return
    told = [*_told_of_both(text, start)]
    heading = ABOUT_HISTORY.search(text, start)
    places = [(claim.start, claim.end) for claim in told] + ([heading.span()] if heading else [])
    told += (c for c in _told(text, start) if not any(begin < c.end and c.start < end for begin, end in places))
    yield from told
    ends = [claim.end for claim in told] or ([heading.end()] if heading else [])
    if not ends and start and HISTORY.search(text, 0, start):  # "... Family history: none."
        ends = [start]
    for match in ADDED.finditer(text, max(ends)) if ends else ():
        kin = str(match[match.lastgroup]) if match.lastgroup else "personal"
        yield _claim(kin, match, negated=DENYING.search(match[0]) is not None)
    if heading and not told:
        yield TextClaim(NEUTRAL, "", heading.start(), heading.end())


def _claim(kin: str, match: re.Match[str], *, negated: bool) -> TextClaim:
    name = PERSONAL if kin.lower().startswith(("p", "own")) else FAMILY
    return TextClaim(name, "True", match.start(), match.end(), negated)


def _told_of_both(text: str, start: int) -> Iterator[TextClaim]:
    for pattern in (NEITHER, BOTH):
        for match in pattern.finditer(text, start):
            both = [_claim(kin, match, negated=pattern is NEITHER) for kin in ("personal", "family")]
            begin = match.start("nor") if pattern is NEITHER else match.start()  # "neither he, a man of 60, nor ..."
            yield from (replace(claim, start=begin) for claim in both)


def _told(text: str, start: int) -> Iterator[TextClaim]:
    for match in HISTORY.finditer(text, start):
        whose = {group: kin for group, kin in match.groupdict().items() if kin and group != "none"}
        denied = DENIED_WITHIN.search(match[0]) is not None or is_denied_after(text, match.end())
        for group, kin in (whose or {"first": "personal"}).items():
            yield _claim(kin, match, negated=denied or (group == "second" and match["none"] is not None))
