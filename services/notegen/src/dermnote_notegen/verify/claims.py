"""Claims: what a text says of patient and lesion, each with its place, its negation, and whether it is said as typical.

Sentence by sentence: numbers with units by pattern, everything else by the lexicon. What the lexicon does not know is a
claim too ("unrecognised"), so that nothing is said that was not understood. Pure; it knows no facts.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dermnote_notegen.verify.lexicon import FINDING, NEUTRAL, Lexicon, Match, role
from dermnote_notegen.verify.qualifiers import (
    bound,
    is_denied_itself,
    is_of_a_thing,
    qualified,
    says_it_is_here,
    typical_here,
)
from dermnote_notegen.verify.sentence import Negation, Subject, is_denied_after, is_of_this_lesion, readings, runs

NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[- ](?:one|two|three|four|five|"
    "six|seven|eight|nine))?"
)
_NUMBER = rf"\d+(?:\.\d+)?|{NUMBER_WORDS}"
_YEARS = r"(?:years?|yrs?|y)"
_DECADE = r"\d{1,2}0'?s|teens|(?:twen|thir|for|fif|six|seven|eigh|nine)ties"
_KIN = r"(?:personal|family|familial)"
_PERSON = r"(?:man|woman|patient|person|boy|girl|female|male|individual|lady|gentleman)"
AGE = re.compile(
    rf"\b(?P<old>{_NUMBER})[\s-]*{_YEARS}[\s-]*(?:old|of age)\b"
    r"|\b(?P<yo>\d+)\s?(?:yo|y/o|y\.o\.)(?!\w)"
    rf"|\b(?:aged?|age of|age is|age:|ages)\s+(?P<aged>{_NUMBER})\b(?:\s*{_YEARS}\b)?"
    rf"|\b{_PERSON} of (?P<of>{_NUMBER})\b(?:\s*{_YEARS}\b)?"
    r"|\b(?P<letter>\d+)(?=[\s/]?[FM]\b)|(?<=\b[FM]/)(?P<after>\d+)\b|(?<=\b[FM][;,] )(?P<next>\d+)(?=[;,.])"
    rf"|\b(?:she|he|{_PERSON}) is (?P<being>\d+)\b(?!\s*(?:mm|cm|{_YEARS}))"
    rf"|\b{_PERSON}[,;/]? ?\(?(?P<bare>\d+)(?!\.\d)(?=[.,:;)]|$)"
    rf"|(?<=[,;] )(?P<first>\d+)(?=[,;] {_PERSON}\b)"
    rf"|(?<!\bfor )(?<!\bover )(?<!\bpast )(?<!\blast )(?<!\bsince )\b(?P<years>\d+)\s*{_YEARS}\b"
    r"(?!\s*(?:ago|later|before|earlier|after|duration|history|prior|previously)\b)"
    rf"|\bin (?:his|her|their|the) (?:early |mid[- ]?|late )?(?P<decade>{_DECADE})\b"
    r"|\b(?P<vague>\w+genarian)\b",
    re.IGNORECASE,
)
# Ages that a word for the patient leads to: the word is a claim of its own.
AFTER_PERSON = ("of", "being", "bare")
SIZE = re.compile(
    rf"\b(?P<number>{_NUMBER})[\s-]*(?P<unit>mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)\b", re.IGNORECASE
)
FITZPATRICK = re.compile(
    r"\b(?:fitzpatrick(?:'s)?\s+)(?:skin\s*)?(?:photo)?\s*type\s*:?\s*(?P<one>VI|IV|V|I{1,3}|[1-6])\b"
    r"|\b(?:skin|photo)\s*type\s*:?\s*(?P<two>VI|IV|V|I{1,3}|[1-6])\b"
    r"|\bfitzpatrick\s+(?:(?:skin\s*)?(?:photo)?type\s+is\s+)?(?P<three>VI|IV|V|I{1,3}|[1-6])\b"
    r"|\btype\s+(?P<four>VI|IV|V|I{1,3}|[1-6])\s+skin\b",
    re.IGNORECASE,
)
_OF_MELANOMA = r"histor(?:y|ies) (?:(?:is|are|was|were) )?(?:positive |negative )?(?:of|for) (?:melanomas?|it)"
HISTORY = re.compile(
    rf"\b(?P<first>{_KIN})(?:,? (?:(?:and|or|nor)(?: an?)?|(?:and|but)(?P<none> no)) (?P<second>{_KIN}))?"
    rf" {_OF_MELANOMA}\b"
    rf"|\bhistory of melanomas?,? (?P<third>{_KIN})\b(?:,? (?:and|or|nor) (?P<fourth>{_KIN})\b)?"
    r"|\b(?:history of )?melanomas? (?:also )?(?:has |have )?"
    r"(?:occurred |been (?:seen|diagnosed|reported) |runs |run )?"
    r"in (?:the|his|her|their|the patient's) (?P<fifth>family)\b"
    r"|\b(?:in )?(?:his|her|their|the) (?P<eighth>family) (?:has|have) (?:a )?(?:history of|had(?: an?)?) melanomas?\b"
    rf"|\b(?P<sixth>{_KIN}) (?:melanoma history|history\s*: melanomas?)\b"
    r"|\b(?P<seventh>relative|family member)s? (?:of (?:his|hers|theirs) )?"
    r"(?:has |have |had |with )(?:had )?(?:an? )?melanomas?\b"
    r"|\b(?:had (?:an? )?|previous |prior |earlier |past )melanomas?\b(?: in the past\b| before\b)?"
    r"|\bhistory of melanomas?\b",
    re.IGNORECASE,
)
BOUNDED = ("age", "clin_size_long_diam_mm", "fitzpatrick_skin_type")
ROMAN = dict(zip("123456", ("I", "II", "III", "IV", "V", "VI"), strict=True))
SENTENCE = re.compile(r"(?:[^.;!?\n]|\.(?=\d)|\.(?=\w))+[.;!?\n]*")


@dataclass(frozen=True)
class TextClaim:
    """One claim: `field` as in the metadata, or what it is of; `value` canonical; `start`/`end` code points, half open.

    `typical`: said of the diagnosis in general. `readings`: the sets of finding words that it can be a part of.
    """

    field: str
    value: str
    start: int
    end: int
    negated: bool = False
    typical: bool = False
    readings: tuple[frozenset[str], ...] = ()


def claims(text: str, lexicon: Lexicon) -> list[TextClaim]:
    """Every claim of a text, in the order of the text."""
    found: list[TextClaim] = []
    goes_on = False  # what is general goes on behind a semicolon
    for match in SENTENCE.finditer(text):
        sentence = _Sentence(match[0], match.start(), lexicon, goes_on=goes_on)
        found += sentence.claims()
        goes_on = sentence.is_general and match[0].rstrip().endswith(";")
    return sorted(_both_borders_as_mixed(found), key=lambda claim: (claim.start, claim.end))


def _both_borders_as_mixed(found: list[TextClaim]) -> Iterator[TextClaim]:
    """A border that is called sharp and indistinct ("sharp here, indistinct there") is a mixed one."""
    own = [claim for claim in found if claim.field == "findings.border" and not (claim.typical or claim.negated)]
    mixed = {claim.value for claim in own} >= {"sharp", "indistinct"}
    for claim in found:
        yield replace(claim, value="mixed") if mixed and claim in own else claim


class _Sentence:
    """One sentence, read from left to right."""

    def __init__(self, text: str, offset: int, lexicon: Lexicon, *, goes_on: bool) -> None:
        self._text = text
        self._offset = offset
        self._numbers = sorted(
            _number_claims(text, passed=_names_with_numbers(text, lexicon)), key=lambda claim: claim.start
        )
        self._matches = list(lexicon.scan(text, passed=[(c.start, c.end) for c in self._numbers]))
        plain = [match for match in self._matches if not match.is_finding]
        self._cued = any(word in role("cues") for match in plain for word in match.words)
        names = any(match.value("diagnosis") for match in plain)
        refers_back = bool(plain) and plain[0].words[0] in role("refers_back")
        about_all = (goes_on and not says_it_is_here(text)) or (self._cued and (names or refers_back))
        self.is_general = about_all and not is_of_this_lesion(self._matches)

    def claims(self) -> Iterator[TextClaim]:
        negation, subject = Negation(), Subject()
        numbers = list(self._numbers)
        found = list(runs(self._matches, self._text))
        readings_of = readings(found, self._text)
        after = {match.start: following for match, following in itertools.pairwise(self._matches)}
        for run in found:
            for match in run.matches:
                while numbers and numbers[0].start < match.start:
                    yield self._placed(numbers.pop(0), negated=negation.is_on)
                negation.pass_over(match)
                subject.pass_over(match, after.get(match.start))
                typical = self.is_general or (self._cued and subject.is_general)
                for claim in self._of(match, typical=typical, readings=readings_of.get(run, ())):
                    denied = is_denied_itself(self._text, claim.start) if claim.field == "sex" else negation.is_on
                    yield self._placed(claim, negated=denied)
        for number in numbers:
            yield self._placed(number, negated=negation.is_on)
        for claim in self._qualified():
            yield self._placed(claim, negated=False)

    def _qualified(self) -> Iterator[TextClaim]:
        """What is said by small words beside the others: "another melanoma", "not denied"."""
        for wrong, start, end in qualified(self._matches, self._text):
            if not (wrong == "others" and self._cued):  # "many melanomas typically show"
                yield TextClaim(f"never.{wrong}", self._text[start:end], start, end)
        if here := typical_here(self._matches, self._text):
            yield TextClaim("never.implied", self._text[slice(*here)], *here)

    def _of(self, match: Match, *, typical: bool, readings: tuple[frozenset[str], ...]) -> Iterator[TextClaim]:
        if not match.meanings:
            kind = "number" if match.words[0][0].isdigit() else "unrecognised"
            yield TextClaim(kind, match.words[0], match.start, match.end)
        meant = [
            m for m in match.meanings if m.field != NEUTRAL and not _other_reading(m.field, match, typical=typical)
        ]
        denied = bool(meant) and is_denied_after(self._text, match.end)
        for meaning in meant:
            negated = denied or (meaning.field.startswith("symptoms.") and match.says_no)
            yield TextClaim(meaning.field, meaning.value, match.start, match.end, negated, typical, readings)

    def _placed(self, claim: TextClaim, *, negated: bool) -> TextClaim:
        return replace(
            claim,
            start=claim.start + self._offset,
            end=claim.end + self._offset,
            negated=claim.negated or negated,
        )


def _names_with_numbers(text: str, lexicon: Lexicon) -> list[tuple[int, int]]:
    """Where a diagnosis is named whose name holds a number ("melanoma less than 0.76 mm")."""
    if not any(letter.isdigit() for letter in text):
        return []
    named = (match for match in lexicon.scan(text) if match.value("diagnosis"))
    return [(match.start, match.end) for match in named if any(word[0].isdigit() for word in match.words)]


def _number_claims(text: str, *, passed: list[tuple[int, int]]) -> Iterator[TextClaim]:
    """Ages, sizes, skin types and histories of melanoma, but for those inside `passed`."""
    for claim in _all_number_claims(text):
        if not any(start < claim.end and claim.start < end for start, end in passed):
            limit = bound(text, claim.start) if claim.field in BOUNDED else ""
            if claim.field == "age" and is_of_a_thing(text, claim.start, claim.end):
                limit = "thing of"
            yield replace(claim, value=f"{limit} {claim.value}") if limit else claim


def _all_number_claims(text: str) -> Iterator[TextClaim]:
    for match in AGE.finditer(text):
        value = str(match[str(match.lastgroup)]).lower()
        start = match.start(match.lastgroup) if match.lastgroup in AFTER_PERSON else match.start()
        yield TextClaim("age", value, start, match.end())
    for match in SIZE.finditer(text):
        yield TextClaim(
            "clin_size_long_diam_mm", _millimetres(match["number"], match["unit"]), match.start(), match.end()
        )
    for match in FITZPATRICK.finditer(text):
        value = str(match[str(match.lastgroup)]).upper()
        yield TextClaim("fitzpatrick_skin_type", ROMAN.get(value, value), match.start(), match.end())
    for match in HISTORY.finditer(text) if "melanoma" in text.lower() else ():
        whose = {group: kin.lower() for group, kin in match.groupdict().items() if kin and group != "none"}
        denied = "negative" in match[0].lower() or is_denied_after(text, match.end())
        for group, kin in (whose or {"first": "personal"}).items():
            name = "personal" if kin == "personal" else "family"
            negated = denied or (group == "second" and match["none"] is not None)
            yield TextClaim(f"{name}_hx_mm", "True", match.start(), match.end(), negated)


def _other_reading(field_name: str, match: Match, *, typical: bool) -> bool:
    """True where a word's other meaning is meant: "raised" is a symptom here, and typical of some diagnoses."""
    if field_name == FINDING:
        return not typical and (match.value_of_closed() or match.value("symptoms.elevation") is not None)
    return typical and field_name == "symptoms.elevation" and match.value(FINDING) is not None


def _millimetres(number: str, unit: str) -> str:
    if not number[0].isdigit():
        return number.lower()
    value = float(number) * (10 if unit.lower().startswith("c") else 1)
    return str(int(value) if value.is_integer() else round(value, 3))
