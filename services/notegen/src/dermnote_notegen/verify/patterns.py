"""Claims found by pattern: ages, sizes, skin types and histories of melanoma. Pure functions, independent of the facts.

A history, personal or in the family, is a run of certain words ("there is melanoma in his family, but he himself has
never had one"). A run is split into clauses, each with a bearer (family or patient), affirmed or denied.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dermnote_notegen.verify.lexicon import Lexicon, TextClaim, Word, history_words, words
from dermnote_notegen.verify.qualifiers import DENIED_AT_ONCE

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
# Groups of AGE that follow a word for the patient; that word is a claim of its own and not part of the age.
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
# Pattern -> quick test: if the test finds nothing in a sentence, the pattern doesn't match either.
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

PERSONAL, FAMILY = "personal_hx_mm", "family_hx_mm"
MELANOMA = ("melanoma", "melanomas")
# A sentence without a match contains no history.
HISTORY_HINT = re.compile(
    r"histor|famil|relative|\bhad\b|previous|prior|earlier|past|\b[fp]m?hx?\b|personal|\bown\b|diagnosed with"
    r"|\b(?:has|have|did|does) not|neither|hasn|himself|herself|\bnever\b|\bbefore\b|\bonce\b|\balready\b",
    re.IGNORECASE,
)
# Clause separators across which a denial continues.
CONTINUES = ("or", "nor", "and", ",", "/")
# In "Neither the patient, a woman of 26, nor anyone in her family", the words between the commas make the family a
# separate run.
APPOSED = re.compile(
    r"\b(?P<neither>neither) (?:he|she|the \w+)(?: himself| herself)?,[^,.;]*,(?: nor\b)", re.IGNORECASE
)
ENDS = re.compile(r"\s*(?:[.;,!?)]|$)")


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
    """The numeric claims after `start` and outside `names`; a value includes words that bound it ("more than")."""
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
    """Like `pattern.finditer`, but fast if nothing can match."""
    return pattern.finditer(text, start) if HINTS[pattern].search(text, start) else iter(())


def _millimetres(number: str, unit: str) -> str:
    if not number[0].isdigit():
        return number.lower()
    value = float(number) * (10 if unit.lower().startswith("c") else 1)
    return str(int(value) if value.is_integer() else round(value, 3))


def _bound(text: str, start: int, end: int) -> str:
    """The words that make a number a bound: "more than" 6 mm, 6 mm "or more", "almost" 61; else empty."""
    match = BOUND.search(text, 0, start) or BOUND_AFTER.match(text, end)
    return match[0].strip().lower() if match else ""


def _vague(text: str, start: int, end: int) -> str:
    """A prefix for an age: "thing of" if it isn't the patient's ("61-year-old photograph"), "about", or empty."""
    if THING_BEFORE.search(text, 0, start) or THING_AFTER.match(text, end):
        return "thing of"
    return "about" if ABOUT.search(text, 0, start) else ""


@dataclass(frozen=True)
class Clause:
    """Words between two separators; `joiner`: the separator before them."""

    joiner: str
    words: tuple[Word, ...]

    def has(self, *lists: str) -> bool:
        """True if it contains a word of one of these lists."""
        return any(word.text in history_words(name) for word in self.words for name in lists)

    @property
    def names_melanoma(self) -> bool:
        """True if it names melanoma."""
        return any(word.text in MELANOMA for word in self.words)

    @property
    def bearers(self) -> tuple[str, ...]:
        """Whose history it is: the family's if it names the family, else the patient's if it names a history."""
        if self.has("family"):
            return (FAMILY,)
        if self.has("personal", "history") or (self.names_melanoma and self.has("past")):
            return (PERSONAL,)
        return ()

    @property
    def denies(self) -> bool | None:
        """True if denied, False if affirmed, None if neither."""
        if self.has("deniers"):
            return True
        short = not self.names_melanoma and not self.has("history")
        return False if self.has("affirmers") or (short and self.has("answers")) else None

    @property
    def is_bare(self) -> bool:
        """True if the next clause completes it: "personal" in "personal and family history"."""
        return not self.names_melanoma and not self.has("past", "telling_verbs") and self.denies is None

    @property
    def is_answer(self) -> bool:
        """True if it only answers the clause before it: ": none", ", absent"."""
        lists = ("deniers", "affirmers", "answers", "telling_verbs")
        answers = all(any(word.text in history_words(name) for name in lists) for word in self.words)
        return answers and not self.bearers and self.denies is not None

    @property
    def is_headed(self) -> bool:
        """True if it completes the clause before it: "(melanoma)", ": no melanoma", ", positive for melanoma"."""
        continues = self.denies is not None or self.words[0].text in ("of", "for")
        marks = (":", "(", ",") if continues else (":", "(")
        return self.joiner in marks and self.names_melanoma and not self.bearers

    @property
    def is_in_the_patient(self) -> bool:
        """True for "no melanoma in this patient", which is a history only next to one of the family."""
        texts = {word.text for word in self.words}
        return self.names_melanoma and "in" in texts and not texts.isdisjoint(("patient", "him", "himself", "herself"))

    @property
    def is_denied_twice(self) -> bool:
        """True if it contains two denials, which is ambiguous: "is not denied", "no relative without"."""
        return sum(word.text in history_words("deniers") for word in self.words) > 1

    @property
    def is_of_a_person(self) -> bool:
        """True if it is about a person but doesn't name melanoma: "he has not", "never in her"."""
        if self.bearers or self.names_melanoma:
            return False
        in_person = self.words[-1].text in ("her", "him", "patient") and any(word.text == "in" for word in self.words)
        return (self.has("persons") and self.has("telling")) or (in_person and self.denies is not None)

    @property
    def refers_to_melanoma(self) -> bool:
        """True if it refers to a melanoma named earlier: "she had one before"."""
        return self.is_of_a_person and self.has("past") and self.has("anaphora")


def histories(text: str, start: int) -> tuple[list[TextClaim], list[tuple[int, int]]]:
    """The histories in `text` from `start` on, and the spans of their words."""
    if HISTORY_HINT.search(text, start) is None or "melanoma" not in text.lower():
        return [], []
    mentioned = start > 0 and _has_history(text[:start])
    named = "melanoma" in text[:start].lower()
    claims: list[TextClaim] = []
    spans: list[tuple[int, int]] = []
    for run in _runs(text, start):
        clauses = list(_clauses(run, text))
        ended = ENDS.match(text, run[-1].end) is not None
        refers = named and any(clause.refers_to_melanoma for clause in clauses)
        found = _claims_of(clauses, is_mentioned=mentioned or refers or bool(claims), is_ended=ended or refers)
        if found and DENIED_AT_ONCE.match(text, run[-1].end):  # "-ve", "(-)", ": N"
            found[-1] = replace(found[-1], negated=True)
        claims += found
        claims += (_doubtful(clause) for clause in clauses if found and clause.is_denied_twice)
        if found:
            bearing = (c for c in clauses if _bears(c, clauses))
            spans += ((w.start, w.end) for c in bearing for w in c.words if w.text not in history_words("sexed"))
    for match in APPOSED.finditer(text, start) if claims else ():
        claims.append(TextClaim(PERSONAL, "True", match.start(), match.end("neither"), negated=True))
        spans.append(match.span("neither"))
    return claims, spans


def _doubtful(clause: Clause) -> TextClaim:
    text = " ".join(word.text for word in clause.words)
    return TextClaim("never.hedging", text, clause.words[0].start, clause.words[-1].end)


def _is_heading(clause: Clause, clauses: Sequence[Clause]) -> bool:
    """True for the first clause of "histories of melanoma: personal none, family one"."""
    if clause is not clauses[0] or len(clauses) == 1 or clause.has("family", "personal"):
        return False
    return clauses[1].joiner == ":" and (bool(clauses[1].bearers) or clauses[1].is_of_a_person)


def _opens(clause: Clause, clauses: Sequence[Clause]) -> bool:
    """True for a heading that does not state the diagnosis: "melanoma" in "melanoma: none in her own history"."""
    return clause is clauses[0] and clause.names_melanoma and len(clauses) > 1 and clauses[1].joiner == ":"


def _bears(clause: Clause, clauses: Sequence[Clause]) -> bool:
    """True for a clause that is part of a history."""
    part = clause.is_answer or clause.is_headed or _opens(clause, clauses) or _is_heading(clause, clauses)
    return part or bool(_bearers(clause, clauses))


def _bearers(clause: Clause, clauses: Sequence[Clause]) -> tuple[str, ...]:
    others = any(FAMILY in other.bearers for other in clauses)
    if clause.bearers:
        return () if _is_heading(clause, clauses) else clause.bearers
    return (PERSONAL,) if clause.is_of_a_person or (clause.is_in_the_patient and others) else ()


def _has_history(text: str) -> bool:
    """True if the text contains a history."""
    return any(_claims_of(list(_clauses(run, text)), is_mentioned=False, is_ended=True) for run in _runs(text, 0))


def _runs(text: str, start: int) -> Iterator[list[Word]]:
    """Runs of history words, separated only by spaces, commas, colons, slashes or brackets."""
    run: list[Word] = []
    for word in words(text[start:]):
        placed = Word(word.text, word.start + start, word.end + start)
        apart = run and re.search(r"[^\s,:/()'’\-–+]", text[run[-1].end : placed.start])
        if apart or not _is_of_history(placed):
            if run:
                yield run
            run = []
        if _is_of_history(placed):
            run.append(placed)
    if run:
        yield run


def _is_of_history(word: Word) -> bool:
    return word.text in MELANOMA or word.text in history_words()


def _clauses(run: Sequence[Word], text: str) -> Iterator[Clause]:
    """A run, split at commas, colons, slashes, brackets and conjunctions."""
    joiner, part = "", list[Word]()
    for number, word in enumerate(run):
        gap = text[run[number - 1].end : word.start] if number else ""
        mark = next((mark for mark in ":,/(" if mark in gap), None)
        if mark and part:
            yield Clause(joiner, tuple(part))
            joiner, part = mark, []
        if word.text in history_words("conjunctions") and not _goes_with(word, part):
            if part:
                yield Clause(joiner, tuple(part))
            joiner, part = word.text, []
            if word.text in history_words("deniers"):  # "nor"
                part = [word]
        else:
            part.append(word)
    if part:
        yield Clause(joiner, tuple(part))


def _goes_with(word: Word, part: Sequence[Word]) -> bool:
    """True if "with" continues the clause: "diagnosed with", "a relative with" melanoma."""
    return word.text == "with" and bool(part) and part[-1].text in history_words("with_melanoma")


def _claims_of(clauses: Sequence[Clause], *, is_mentioned: bool, is_ended: bool) -> list[TextClaim]:
    """The claims of a run. `is_mentioned`: a history came earlier; `is_ended`: the run ends its clause."""
    if not _is_history(clauses, is_mentioned=is_mentioned, is_ended=is_ended):
        return []
    return [
        TextClaim(bearer, "True", clause.words[0].start, clause.words[-1].end, denies)
        for clause, denies in zip(clauses, _denials(clauses), strict=True)
        for bearer in _bearers(clause, clauses)
    ]


def _is_history(clauses: Sequence[Clause], *, is_mentioned: bool, is_ended: bool) -> bool:
    names = any(clause.names_melanoma for clause in clauses)
    bears = any(clause.bearers for clause in clauses)
    if names:
        return bears or any(clause.is_of_a_person and clause.denies for clause in clauses)
    answers = any(clause.denies is not None or clause.has("likewise") for clause in clauses)
    return is_mentioned and is_ended and ((bears and answers) or any(clause.is_of_a_person for clause in clauses))


def _denials(clauses: Sequence[Clause]) -> list[bool]:
    """Whether each clause is denied: by itself, by an answer after it, or like the clauses it is listed with."""
    denied = [clause.denies for clause in clauses]
    for number, clause in enumerate(clauses):
        if number and (clause.is_answer or clause.is_headed):
            denied[number - 1] = denied[number - 1] or bool(clause.denies)
    for number in reversed(range(len(clauses) - 1)):
        listed = clauses[number + 1].joiner in CONTINUES and clauses[number + 1].joiner != ","
        if clauses[number].is_bare and clauses[number].bearers and clauses[number + 1].bearers and listed:
            denied[number] = denied[number + 1] if denied[number] is None else denied[number]
    for number in range(1, len(clauses)):
        if denied[number] is None and not clauses[number].bearers:  # "no history, either in him or in his family"
            denied[number] = denied[number - 1]
        if denied[number] is None and denied[number - 1] and clauses[number].joiner in CONTINUES:
            begins = clauses[number].words[0].text
            denied[number] = clauses[number].joiner in ("or", "nor", "/") or begins in history_words("kin") or None
    return [bool(one) for one in denied]
