"""Determines which claims of a part are affirmed and which are denied, by reading claims and cues in order.

Cues are words that affirm or deny a claim, such as "reports", "denies", "no" or "was absent".
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from lab.second_checker.strike import Claim, Strip

Kind = Literal["after-no", "after-yes", "no", "deny", "verb", "yes", "break"]
_BE = r"(?:is|are|was|were|has been|have been)(?: also)?"
_SEEN = r"(?:reported|present|noted|described|seen|recorded|observed|confirmed)"
_END = r"(?=\s*(?:[,)]|$))"
_CUES: tuple[tuple[Kind, str], ...] = (
    ("after-no", rf"\b{_BE} (?:absent|denied|negative(?! for)|not {_SEEN})\b|: (?:no|absent|negative|denied){_END}"),
    ("after-yes", rf"\b{_BE} (?:positive(?! for)|{_SEEN})\b(?! (?:as|with|by|in|on|to))|: (?:yes|present){_END}"),
    ("deny", r"\b(?:denie[sd]|deny|denying)\b"),
    ("no", r"\b(?:no|not|non|none|without|neither|nor|never|negative(?: for)?|(?:absence|lack|free) of|lacks)\b"),
    ("verb", r"\b(?:reports|describes|confirms|complains|experiences|shows|displays|exhibits|reveals)\b"),
    ("yes", r"\b(?:but|however|although|while|whereas|yet|with|is|are|was|were|has|have|positive for)\b"),
    ("break", r", (?:and|but|while|whereas|although)\b|,? (?:but|while|whereas)\b"),
)  # fmt: skip
_LISTED = ("symptoms.", "findings.", "personal_hx", "family_hx")


@dataclass
class _Reading:
    denied: bool = False
    verb_seen: bool = False
    reporting: bool = False
    denial_in_segment: bool = False
    open_denial: bool = False
    segment: list[Claim] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_polarity(strip: Strip) -> list[str]:
    """Set `positive` of every claim. Returns problems: double negations, and denials without a recognised claim."""
    reading = _Reading()
    items: list[tuple[int, Kind | Claim]] = [(claim.start, claim) for claim in strip.claims]
    items += _cues(strip)
    for _, item in sorted(items, key=lambda item: item[0]):
        if isinstance(item, Claim):
            _read_claim(item, reading)
        else:
            _read_cue(item, reading)
    _close_denial(reading)
    return reading.problems


def _cues(strip: Strip) -> list[tuple[int, Kind | Claim]]:
    found: list[tuple[int, Kind | Claim]] = []
    breaks = [match.start() for match in re.finditer(_CUES[-1][1], strip.rest)]
    for kind, expression in _CUES[:-1]:
        found += [(match.start(), kind) for match in strip.strike(expression)]
    return [*((start, "break") for start in breaks), *found]


def _read_claim(claim: Claim, reading: _Reading) -> None:
    listed = claim.path.startswith(_LISTED)
    if not claim.fixed and (listed or reading.open_denial):
        claim.positive = not reading.denied
    reading.open_denial = False
    if listed:
        reading.segment.append(claim)


def _read_cue(kind: Kind, reading: _Reading) -> None:
    if kind in ("after-no", "after-yes"):
        _read_postfix(reading, denies=kind == "after-no")
    elif kind in ("no", "deny"):
        if reading.open_denial:
            reading.problems.append("double negation")
        reading.denied = reading.denial_in_segment = reading.open_denial = True
        reading.verb_seen |= kind == "deny"
    elif kind == "break":
        if reading.verb_seen:
            reading.segment, reading.denial_in_segment, reading.reporting = [], False, False
    else:
        _close_denial(reading)
        reading.denied = False
        reading.verb_seen = True
        reading.reporting |= kind == "verb"


def _read_postfix(reading: _Reading, *, denies: bool) -> None:
    targets = reading.segment[-1:] if reading.reporting else reading.segment
    if denies and not targets:
        reading.problems.append("denial without a recognised claim")
    if denies or not reading.denial_in_segment:
        for claim in targets:
            claim.positive = not denies
    _close_denial(reading)
    reading.segment, reading.denied, reading.denial_in_segment, reading.verb_seen = [], False, False, True


def _close_denial(reading: _Reading) -> None:
    if reading.open_denial:
        reading.problems.append("denial without a recognised claim")
    reading.open_denial = False
