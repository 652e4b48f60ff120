"""Finds the claims in a part of a note and removes their words; the words that remain must be connecting words.

Whether a claim is true is not checked here.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise

from dermnote_notegen.writing.priors import Prior
from lab.second_checker.wordings import (
    BORDER_NOUN,
    COLOUR_NOUN,
    CONNECTORS,
    PHRASES,
    SHAPE_NOUN,
    TYPICAL_CONNECTORS,
    TYPICAL_PHRASES,
    any_of,
    diagnosis_names,
    diagnosis_regex,
    normalise,
    wordings,
)

STRUCK = "\u25af"
_HINTS = {
    "laterality": r"left|right|bilateral|unilateral|midline",
    "treatment": r"treat|excis|biops|surg|cream|steroid|cryo|remov|therap|laser|prescri|medic|resect",
    "advice": r"recommend|should|advis|follow|refer|consider|need|avoid|monitor|protect|must|require",
    "exposure": r"sun|uv|expos|tan|burn|smok|occupation|work|outdoor",
    "date": r"january|february|march|april|june|july|august|september|october|november|december|today|yesterday|ago"
    r"|week|month|year|day|since|recent|last|onset|duration|sudden",
    "history": r"previous|prior|past|relative|mother|father|sibling|parent|chronic|known|family|personal|hx",
    "colour": r"pink|yellow|purple|blue|gray|orange|green|violet|skin|reddish|brownish|pigmented|variegated",
    "hedge": r"may|might|possib|probab|suspect|likely|could|appear|suggest|worrisome|concern",
    "count": r"two|three|four|multiple|several|many|few|second|third",
}


@dataclass
class Claim:
    """A claim about the patient or the lesion. `positive`: False if denied; `fixed`: earlier cues do not count."""

    path: str
    value: object
    start: int
    end: int
    positive: bool = True
    fixed: bool = False


@dataclass
class Strip:
    """A part of a note during the check: its text, the rest that is still unexplained, and the claims found."""

    text: str
    rest: str = ""
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rest = self.text

    def strike(self, regex: re.Pattern[str] | str) -> list[re.Match[str]]:
        """Remove every match of the expression from the unexplained rest."""
        found = list(re.finditer(regex, self.rest))
        for match in found:
            self.rest = self.rest[: match.start()] + STRUCK * len(match[0]) + self.rest[match.end() :]
        return found


def strike_assertion(strip: Strip, prior: Prior | None) -> None:
    """Find and remove the claims about the patient in a part."""
    strip.strike("|".join(PHRASES))
    _strike_histories(strip)
    _strike_diagnoses(strip, prior)
    _strike_wordings(strip)
    paths = {claim.path for claim in strip.claims}
    if "findings.border" in paths:
        strip.strike(rf"\b{BORDER_NOUN}\b")
    if "findings.colours" in paths:
        strip.strike(COLOUR_NOUN)
    if "findings.asymmetry" in paths:
        strip.strike(rf"\b{SHAPE_NOUN}\b")
    strip.claims.sort(key=lambda claim: claim.start)


def strike_typical(strip: Strip, prior: Prior | None) -> list[str]:
    """Remove the prior's wordings from a part that is worded as typical, then the claims in the rest.

    Returns problems: findings listed twice, and findings asserted of the lesion itself ("a typical network").
    """
    listed: list[int] = []
    spellings = _typical_wordings(prior)
    if spellings:
        found = strip.strike(rf"(?<!\w)(?:{any_of(spellings)})(?!\w)")
        listed = [spellings[match[0]] for match in found]
    own = re.search(
        rf"\b(?:typical|characteristic|usual|common|classic(?:al)?) (?:dermoscopic |clinical )?{STRUCK}", strip.rest
    )
    strip.strike("|".join(TYPICAL_PHRASES))
    _strike_diagnoses(strip, prior)
    _strike_wordings(strip)
    if any(claim.path == "findings.colours" for claim in strip.claims):
        strip.strike(COLOUR_NOUN)
    twice = {finding for finding in listed if listed.count(finding) > 1}
    problems = [f"repetition: typical finding {finding + 1} of the prior" for finding in sorted(twice)]
    return problems + (["asserted of the lesion, not worded as typical"] if own else [])


def _typical_wordings(prior: Prior | None) -> dict[str, int]:
    findings = prior.findings if prior else ()
    return {
        re.sub(r"^(?:an?|the) ", "", normalise(wording)): index
        for index, finding in enumerate(findings)
        for wording in finding.wordings
    }


def _strike_histories(strip: Strip) -> None:
    for match in strip.strike(
        r"\b(personal|family) history (?:is|was) (positive|negative) for (?:malignant )?melanoma\b"
    ):
        strip.claims.append(_history(match, positive=match[2] == "positive"))
    if not re.search(r"\bhistory of (?:malignant )?melanoma\b", strip.rest):
        return
    atoms = strip.strike(r"\b(personal|family|familial)\b")
    tails = strip.strike(r"\bhistory of (?:malignant )?melanoma\b")
    strip.claims += [_history(match, positive=None) for match in atoms]
    if not atoms:
        strip.claims += [Claim("personal_hx_mm", None, match.start(), match.end()) for match in tails]


def _history(match: re.Match[str], *, positive: bool | None) -> Claim:
    path = "personal_hx_mm" if match[1] == "personal" else "family_hx_mm"
    return Claim(path, None, match.start(), match.end(), positive is not False, positive is not None)


def _strike_diagnoses(strip: Strip, prior: Prior | None) -> None:
    extra = tuple((spelling, prior.diagnosis) for spelling in prior.synonyms) if prior else ()
    for match in strip.strike(diagnosis_regex(extra)):
        where = match.start(), match.end()
        past = re.search(r"\b(?:history of|had) (?:an? )?$", strip.text[: match.start()])
        path = "history of a diagnosis" if past else "diagnosis"
        strip.claims.append(Claim(path, diagnosis_names(extra)[match[0]], *where))
        if "malignant" in match[0]:
            strip.claims.append(Claim("benign_malignant", "malignant", *where))


def _strike_wordings(strip: Strip) -> None:
    for wording in wordings():
        for match in strip.strike(wording.regex):
            strip.claims += [Claim(path, value, match.start(), match.end()) for path, value in wording.claims(match)]
    for match in strip.strike(r"\bflat\b"):
        strip.claims.append(Claim("symptoms.elevation", None, match.start(), match.end(), positive=False, fixed=True))


def joined_findings(strip: Strip) -> list[str]:
    """Problems: findings that qualify each other ("red dots", "black border"), which no metadata supports."""
    findings = [claim for claim in strip.claims if claim.path.startswith("findings")]
    problems = []
    for first, second in pairwise(findings):
        close = strip.text[first.end : second.start] == " " and first.path != second.path
        noun = second.path == "findings.structures" or first.path == "findings.structures"
        noun = noun or re.match(rf" {BORDER_NOUN}\b", strip.text[second.end :]) is not None
        if close and noun:
            problems.append(f"unsupported combination: {strip.text[first.start : second.end]}")
    for claim in findings:
        if claim.path == "findings.colours" and re.match(rf" {BORDER_NOUN}\b", strip.text[claim.end :]):
            problems.append(f"unsupported combination: {claim.value} border")
    return problems


def leftovers(strip: Strip, *, typical: bool) -> list[str]:
    """Problems: each run of unexplained words, with a guess at the kind of claim."""
    known = TYPICAL_CONNECTORS if typical else CONNECTORS
    problems, run = [], list[str]()
    for word in [*re.findall(rf"[\w'./%]+|[^\w\s{STRUCK}]", strip.rest), ","]:
        if word in known or word in ",:()":
            if run:
                problems.append(f"unexplained {_kind(run, typical)}: {' '.join(run)}")
            run = []
        else:
            run.append(word)
    return problems


def _kind(run: list[str], typical: bool) -> str:
    known = {hint: stems for hint, stems in _HINTS.items() if not typical or hint not in ("colour", "hedge")}
    hints = [hint for hint, stems in known.items() if any(re.match(rf"(?:{stems})", word) for word in run)]
    number = ["number"] if any(word[0].isdigit() for word in run) else []
    return (hints + number + ["typical finding not in the prior" if typical else "words"])[0]
