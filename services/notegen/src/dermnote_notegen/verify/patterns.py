"""Claims found by pattern (ages, sizes, skin types), and histories. Pure functions, independent of the facts."""

import re
from collections.abc import Iterator
from dataclasses import replace

from dermnote_notegen.verify.histories import histories
from dermnote_notegen.verify.lexicon import Lexicon, TextClaim

NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[- ](?:one|two|three|four|five|"
    "six|seven|eight|nine))?"
)
_NUMBER = rf"\d+(?:\.\d+)?|{NUMBER_WORDS}"
_YEARS = r"(?:years?|yrs?|y)"
_DECADE = r"\d{1,2}0'?s|teens|(?:twen|thir|for|fif|six|seven|eigh|nine)ties"
_PERSON = r"(?:man|woman|patient|person|boy|girl|female|male|individual|lady|gentleman)"
AGE = re.compile(
    rf"\b(?P<old>{_NUMBER})[\s-]*{_YEARS}[\s-]*(?:old|of age)\b"
    r"|\b(?P<yo>\d+)\s?(?:yo|y/o|y\.o\.)(?!\w)"
    rf"|\b(?:aged?|age of|age is|ages|age(?:/sex)?\s*[:=,])\s*(?P<aged>{_NUMBER})\b(?:\s*{_YEARS}\b)?"
    rf"|\b{_PERSON} of (?P<of>{_NUMBER})\b(?:\s*{_YEARS}\b)?"
    r"|\b(?P<letter>\d+)(?=[\s/]?[FM]\b)|(?<![.\d])\b(?-i:[FM])\s?[/|;,(]?\s?(?P<after>\d{1,3})\b(?!\.\d|\s?[mc]m\b|[-–]\d)"
    rf"(?:\s*{_YEARS}\b)?"
    rf"|\b(?:she|he|{_PERSON}) is (?P<being>\d+)\b(?!\s*(?:mm|cm|{_YEARS}))"
    rf"|\b{_PERSON}(?:\b[^.;,\d]{{1,60}}|(?: himself| herself)?,? who) is (?P<counts>\d{{1,3}})(?=[.,;]| and\b)"
    r"|\b(?:female|male) and (?P<sexed>\d{1,3})(?=\s*(?:[.,;]|$))"
    rf"|\b{_PERSON}[,;/]? ?\(?(?P<bare>\d+)(?!\.\d)(?=[.,:;)]|$)"
    rf"|(?<![\d.])\b(?P<first>\d{{1,3}})(?=\s?[,;|/]\s?(?:{_PERSON}|(?-i:[FM]))\b)"
    rf"|(?<!\bfor )(?<!\bover )(?<!\bpast )(?<!\blast )(?<!\bsince )\b(?P<years>\d+)\s*{_YEARS}\b"
    r"(?!\s*(?:ago|later|before|earlier|after|duration|history|prior|previously)\b)"
    rf"|\bin (?:his|her|their|the) (?:early |mid[- ]?|late )?(?P<decade>{_DECADE})\b"
    r"|\b(?P<vague>\w+genarian)\b",
    re.IGNORECASE,
)
# Ages introduced by a word for the patient, which is a claim of its own.
AFTER_PERSON = ("of", "being", "bare", "after", "counts", "sexed")
SIZE = re.compile(
    rf"(?<![.\d])\b(?P<number>{_NUMBER})[\s-]*(?P<unit>mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)\b", re.IGNORECASE
)
FITZPATRICK = re.compile(
    r"\b(?:fitzpatrick(?:'s)?\s+)(?:skin\s*)?(?:photo)?\s*type\s*:?\s*(?P<one>VI|IV|V|I{1,3}|[1-6])\b"
    r"|\b(?:skin|photo)\s*(?:is )?(?:of )?type(?: (?:is|according to fitzpatrick))?\s*[:,]?\s*"
    r"(?P<two>VI|IV|V|I{1,3}|[1-6])\b"
    r"|\bfitzpatrick\s*:?\s+(?:(?:skin\s*)?(?:photo)?type\s+is\s+)?(?P<three>VI|IV|V|I{1,3}|[1-6])\b"
    r"|\btype\s+(?P<four>VI|IV|V|I{1,3}|[1-6])\s+skin\b|\bFST\s*:?\s*(?P<five>VI|IV|V|I{1,3}|[1-6])\b",
    re.IGNORECASE,
)
# A sentence that is only a number, after one that ends with the patient ("man; 81; nose").
ALONE = re.compile(r"\s*(?P<number>\d{1,3})\s*[;.)](?!\d)")
ENDS_WITH_PERSON = re.compile(rf"\b(?:{_PERSON}|(?-i:[FM]))\s*;$", re.IGNORECASE)
# Quick tests: a sentence without a match contains none of the longer pattern either.
HINTS = {
    AGE: re.compile(r"\d|year|\bage|teens|ties\b|genarian|\by\b|yrs?\b| (?:of|is) ", re.IGNORECASE),
    SIZE: re.compile(r"mm\b|cm\b|met(?:er|re)", re.IGNORECASE),
    FITZPATRICK: re.compile(r"type|fitzpatrick|fst", re.IGNORECASE),
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
THING_AFTER = re.compile(rf"\s*{_THING}\b", re.IGNORECASE)
BOUNDED = ("age", "clin_size_long_diam_mm", "fitzpatrick_skin_type")
ROMAN = dict(zip("123456", ("I", "II", "III", "IV", "V", "VI"), strict=True))


def patterned(text: str, start: int, end: int, lexicon: Lexicon) -> tuple[list[TextClaim], list[tuple[int, int]]]:
    """Ages, sizes, skin types and histories of melanoma in one sentence, in order, and the spans of their words.

    A number in the name of a diagnosis ("melanoma less than 0.76 mm") is not a claim.
    """
    names = _names_with_numbers(text, start, end, lexicon)
    numbers = list(_outside(names, text[:end], start))
    history_claims, spans = histories(text[:end], start)
    claims = sorted([*numbers, *history_claims], key=lambda claim: claim.start)
    return claims, [*((claim.start, claim.end) for claim in numbers), *spans]


def _names_with_numbers(text: str, start: int, end: int, lexicon: Lexicon) -> list[tuple[int, int]]:
    """The spans of diagnoses whose names contain a number."""
    sentence = text[start:end]
    if not any(number in sentence for number in lexicon.numbers):
        return []
    named = (match for match in lexicon.scan(sentence) if match.value("diagnosis"))
    with_numbers = (match for match in named if any(word[0].isdigit() for word in match.words))
    return [(start + match.start, start + match.end) for match in with_numbers]


def _outside(names: list[tuple[int, int]], text: str, start: int) -> Iterator[TextClaim]:
    """The numeric claims from `start` outside `names`; a value includes words that make it a bound ("more than")."""
    for claim in _numbers(text, start):
        if not any(begin < claim.end and claim.start < end for begin, end in names):
            limit = _bound(text, claim.start, claim.end) if claim.field in BOUNDED else ""
            if claim.field == "age":
                limit = limit or _vague(text, claim.start, claim.end)
            yield replace(claim, value=f"{limit} {claim.value}") if limit else claim


def _numbers(text: str, start: int) -> Iterator[TextClaim]:
    alone = ALONE.match(text, start)
    if alone and ENDS_WITH_PERSON.search(text[:start]):
        yield TextClaim("age", alone["number"], alone.start("number"), alone.end("number"))
    for match in _finditer(AGE, text, start):
        value = str(match[str(match.lastgroup)]).lower()
        begin = match.start(match.lastgroup) if match.lastgroup in AFTER_PERSON else match.start()
        yield TextClaim("age", value, begin, match.end())
    for match in _finditer(SIZE, text, start):
        value = _millimetres(match["number"], match["unit"])
        yield TextClaim("clin_size_long_diam_mm", value, match.start(), match.end())
    for match in _finditer(FITZPATRICK, text, start):
        value = str(match[str(match.lastgroup)]).upper()
        yield TextClaim("fitzpatrick_skin_type", ROMAN.get(value, value), match.start(), match.end())


def _finditer(pattern: re.Pattern[str], text: str, start: int) -> Iterator[re.Match[str]]:
    """Like the pattern's own, but fast if nothing can match."""
    return pattern.finditer(text, start) if HINTS[pattern].search(text, start) else iter(())


def _millimetres(number: str, unit: str) -> str:
    if not number[0].isdigit():
        return number.lower()
    value = float(number) * (10 if unit.lower().startswith("c") else 1)
    return str(int(value) if value.is_integer() else round(value, 3))


def _bound(text: str, start: int, end: int) -> str:
    """The words that make a number a bound: "more than" 6 mm, 6 mm "or more", "almost" 61; empty without any."""
    match = BOUND.search(text, 0, start) or BOUND_AFTER.match(text, end)
    return match[0].strip().lower() if match else ""


def _vague(text: str, start: int, end: int) -> str:
    """Whether an age is not the patient's ("a 61-year-old photograph") or uncertain ("about 61 years old")."""
    if THING_BEFORE.search(text, 0, start) or THING_AFTER.match(text, end):
        return "thing of"
    return "about" if ABOUT.search(text, 0, start) else ""
