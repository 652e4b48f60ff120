"""Histories of melanoma, personal and in the family. Pure; it knows no facts.

A sentence tells a history in a run of few words ("there is melanoma in his family, but he himself has never had one").
Such a run is parted into clauses; each has a bearer (family, or the patient) and is said or denied.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dermnote_notegen.verify.claim import TextClaim
from dermnote_notegen.verify.lexicon import Word, history_words, words
from dermnote_notegen.verify.negation import DENIED_AT_ONCE

PERSONAL, FAMILY = "personal_hx_mm", "family_hx_mm"
MELANOMA = ("melanoma", "melanomas")
# A sentence without one of these tells no history.
HINT = re.compile(
    r"histor|famil|relative|\bhad\b|previous|prior|earlier|past|\b[fp]m?hx?\b|personal|\bown\b|diagnosed with"
    r"|\b(?:has|have|did|does) not|neither|hasn|himself|herself|\bnever\b|\bbefore\b|\bonce\b|\balready\b",
    re.IGNORECASE,
)
# What parts clauses, and whether a denial before it goes on behind it.
GOES_ON = ("or", "nor", "and", ",", "/")
# "Neither the patient, a woman of 26, nor anyone in her family": the family's is a run of its own.
APPOSED = re.compile(
    r"\b(?P<neither>neither) (?:he|she|the \w+)(?: himself| herself)?,[^,.;]*,(?: nor\b)", re.IGNORECASE
)
ENDS = re.compile(r"\s*(?:[.;,!?)]|$)")


@dataclass(frozen=True)
class Clause:
    """Words between two separators; `joiner`: the one before them."""

    joiner: str
    words: tuple[Word, ...]

    def has(self, *lists: str) -> bool:
        """True when a word of one of these lists is in it."""
        return any(word.text in history_words(name) for word in self.words for name in lists)

    @property
    def tells_melanoma(self) -> bool:
        """True where it names melanoma."""
        return any(word.text in MELANOMA for word in self.words)

    @property
    def bearers(self) -> tuple[str, ...]:
        """Whose history it tells: the family's where it is named, else the patient's."""
        if self.has("family"):
            return (FAMILY,)
        if self.has("personal", "history") or (self.tells_melanoma and self.has("past")):
            return (PERSONAL,)
        return ()

    @property
    def denies(self) -> bool | None:
        """None where it says neither yes nor no."""
        if self.has("deniers"):
            return True
        short = not self.tells_melanoma and not self.has("history")
        return False if self.has("affirmers") or (short and self.has("answers")) else None

    @property
    def is_bare(self) -> bool:
        """ "Personal" in "personal and family history": what it tells stands in the next clause."""
        return not self.tells_melanoma and not self.has("past", "telling_verbs") and self.denies is None

    @property
    def is_answer(self) -> bool:
        """ ": none", ", absent"."""
        lists = ("deniers", "affirmers", "answers", "telling_verbs")
        answers = all(any(word.text in history_words(name) for name in lists) for word in self.words)
        return answers and not self.bearers and self.denies is not None

    @property
    def is_headed(self) -> bool:
        """ "(melanoma)", ": no melanoma", ", positive for melanoma": what the clause before it is of."""
        goes_on = self.denies is not None or self.words[0].text in ("of", "for")
        marks = (":", "(", ",") if goes_on else (":", "(")
        return self.joiner in marks and self.tells_melanoma and not self.bearers

    @property
    def is_in_the_patient(self) -> bool:
        """ "No melanoma in this patient"; a history only beside the family's."""
        said = {word.text for word in self.words}
        return self.tells_melanoma and "in" in said and not said.isdisjoint(("patient", "him", "himself", "herself"))

    @property
    def is_denied_twice(self) -> bool:
        """ "Is not denied", "no relative without": who knows."""
        return sum(word.text in history_words("deniers") for word in self.words) > 1

    @property
    def is_of_a_person(self) -> bool:
        """ "He has not", "the patient has had one", "never in her"."""
        if self.bearers or self.tells_melanoma:
            return False
        in_person = self.words[-1].text in ("her", "him", "patient") and any(word.text == "in" for word in self.words)
        return (self.has("persons") and self.has("telling")) or (in_person and self.denies is not None)

    @property
    def tells_of_it(self) -> bool:
        """ "She had one before": of the melanoma that was named."""
        return self.is_of_a_person and self.has("past") and self.has("anaphora")


def histories(text: str, start: int) -> tuple[list[TextClaim], list[tuple[int, int]]]:
    """What `text` tells of them from `start` on, and the places of the words that tell it."""
    if HINT.search(text, start) is None or "melanoma" not in text.lower():
        return [], []
    told = start > 0 and _tells_before(text[:start])
    named = "melanoma" in text[:start].lower()
    claims: list[TextClaim] = []
    places: list[tuple[int, int]] = []
    for run in _runs(text, start):
        clauses = list(_clauses(run, text))
        ended = ENDS.match(text, run[-1].end) is not None
        refers = named and any(clause.tells_of_it for clause in clauses)
        found = _told_in(clauses, is_told=told or refers or bool(claims), is_ended=ended or refers)
        if found and DENIED_AT_ONCE.match(text, run[-1].end):  # "-ve", "(-)", ": N"
            found[-1] = replace(found[-1], negated=True)
        claims += found
        claims += (_doubtful(clause) for clause in clauses if found and clause.is_denied_twice)
        if found:
            bearing = (c for c in clauses if _bears(c, clauses))
            places += ((w.start, w.end) for c in bearing for w in c.words if w.text not in history_words("sexed"))
    for match in APPOSED.finditer(text, start) if claims else ():
        claims.append(TextClaim(PERSONAL, "True", match.start(), match.end("neither"), negated=True))
        places.append(match.span("neither"))
    return claims, places


def _doubtful(clause: Clause) -> TextClaim:
    said = " ".join(word.text for word in clause.words)
    return TextClaim("never.hedging", said, clause.words[0].start, clause.words[-1].end)


def _is_heading(clause: Clause, clauses: Sequence[Clause]) -> bool:
    """ "Histories of melanoma: personal none, family one"."""
    if clause is not clauses[0] or len(clauses) == 1 or clause.has("family", "personal"):
        return False
    return clauses[1].joiner == ":" and (bool(clauses[1].bearers) or clauses[1].is_of_a_person)


def _opens(clause: Clause, clauses: Sequence[Clause]) -> bool:
    """ "Melanoma: none in her own history": a heading, which names no diagnosis."""
    return clause is clauses[0] and clause.tells_melanoma and len(clauses) > 1 and clauses[1].joiner == ":"


def _bears(clause: Clause, clauses: Sequence[Clause]) -> bool:
    """True for a clause that is part of what is told."""
    part = clause.is_answer or clause.is_headed or _opens(clause, clauses) or _is_heading(clause, clauses)
    return part or bool(_bearers(clause, clauses))


def _bearers(clause: Clause, clauses: Sequence[Clause]) -> tuple[str, ...]:
    others = any(FAMILY in other.bearers for other in clauses)
    if clause.bearers:
        return () if _is_heading(clause, clauses) else clause.bearers
    return (PERSONAL,) if clause.is_of_a_person or (clause.is_in_the_patient and others) else ()


def _tells_before(text: str) -> bool:
    """True when an earlier sentence told a history."""
    return any(_told_in(list(_clauses(run, text)), is_told=False, is_ended=True) for run in _runs(text, 0))


def _runs(text: str, start: int) -> Iterator[list[Word]]:
    """Words of a history one after another, with nothing but spaces, commas, colons, slashes or brackets between."""
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
    """A run, parted at commas, colons, slashes, brackets and conjunctions."""
    joiner, held = "", list[Word]()
    for number, word in enumerate(run):
        gap = text[run[number - 1].end : word.start] if number else ""
        mark = next((mark for mark in ":,/(" if mark in gap), None)
        if mark and held:
            yield Clause(joiner, tuple(held))
            joiner, held = mark, []
        if word.text in history_words("conjunctions") and not _goes_with(word, held):
            if held:
                yield Clause(joiner, tuple(held))
            joiner, held = word.text, []
            if word.text in history_words("deniers"):  # "nor"
                held = [word]
        else:
            held.append(word)
    if held:
        yield Clause(joiner, tuple(held))


def _goes_with(word: Word, held: Sequence[Word]) -> bool:
    """ "Diagnosed with", "a relative with" melanoma."""
    return word.text == "with" and bool(held) and held[-1].text in history_words("with_melanoma")


def _told_in(clauses: Sequence[Clause], *, is_told: bool, is_ended: bool) -> list[TextClaim]:
    """The claims of a run. `is_told`: a history was told before; `is_ended`: the run goes to the end of its clause."""
    if not _tells(clauses, is_told=is_told, is_ended=is_ended):
        return []
    return [
        TextClaim(bearer, "True", clause.words[0].start, clause.words[-1].end, denies)
        for clause, denies in zip(clauses, _denials(clauses), strict=True)
        for bearer in _bearers(clause, clauses)
    ]


def _tells(clauses: Sequence[Clause], *, is_told: bool, is_ended: bool) -> bool:
    names = any(clause.tells_melanoma for clause in clauses)
    bears = any(clause.bearers for clause in clauses)
    if names:
        return bears or any(clause.is_of_a_person and clause.denies for clause in clauses)
    says = any(clause.denies is not None or clause.has("likewise") for clause in clauses)
    return is_told and is_ended and ((bears and says) or any(clause.is_of_a_person for clause in clauses))


def _denials(clauses: Sequence[Clause]) -> list[bool]:
    """For each clause whether it is denied: by itself, by an answer behind it, or as those that it is listed with."""
    said = [clause.denies for clause in clauses]
    for number, clause in enumerate(clauses):
        if number and (clause.is_answer or clause.is_headed):
            said[number - 1] = said[number - 1] or bool(clause.denies)
    for number in reversed(range(len(clauses) - 1)):
        listed = clauses[number + 1].joiner in GOES_ON and clauses[number + 1].joiner != ","
        if clauses[number].is_bare and clauses[number].bearers and clauses[number + 1].bearers and listed:
            said[number] = said[number + 1] if said[number] is None else said[number]
    for number in range(1, len(clauses)):
        if said[number] is None and not clauses[number].bearers:  # "no history, either in him or in his family"
            said[number] = said[number - 1]
        if said[number] is None and said[number - 1] and clauses[number].joiner in GOES_ON:
            begins = clauses[number].words[0].text
            said[number] = clauses[number].joiner in ("or", "nor", "/") or begins in history_words("kin") or None
    return [bool(one) for one in said]
