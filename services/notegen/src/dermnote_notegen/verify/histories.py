"""Extracts histories of melanoma, personal and in the family. Pure functions, independent of the facts.

A history is a run of certain words ("there is melanoma in his family, but he himself has never had one"). A run is
split into clauses, each with a bearer (family or patient), affirmed or denied.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dermnote_notegen.verify.lexicon import TextClaim, Word, history_words, words
from dermnote_notegen.verify.qualifiers import DENIED_AT_ONCE

PERSONAL, FAMILY = "personal_hx_mm", "family_hx_mm"
MELANOMA = ("melanoma", "melanomas")
# A sentence without a match contains no history.
HINT = re.compile(
    r"histor|famil|relative|\bhad\b|previous|prior|earlier|past|\b[fp]m?hx?\b|personal|\bown\b|diagnosed with"
    r"|\b(?:has|have|did|does) not|neither|hasn|himself|herself|\bnever\b|\bbefore\b|\bonce\b|\balready\b",
    re.IGNORECASE,
)
# Clause separators across which a denial continues.
CONTINUES = ("or", "nor", "and", ",", "/")
# "Neither the patient, a woman of 26, nor anyone in her family": the family is then a separate run.
APPOSED = re.compile(
    r"\b(?P<neither>neither) (?:he|she|the \w+)(?: himself| herself)?,[^,.;]*,(?: nor\b)", re.IGNORECASE
)
ENDS = re.compile(r"\s*(?:[.;,!?)]|$)")


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
        """Whose history it is: the family's if it is named, else the patient's."""
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
        """ "Personal" in "personal and family history": the next clause completes it."""
        return not self.names_melanoma and not self.has("past", "telling_verbs") and self.denies is None

    @property
    def is_answer(self) -> bool:
        """ ": none", ", absent"."""
        lists = ("deniers", "affirmers", "answers", "telling_verbs")
        answers = all(any(word.text in history_words(name) for name in lists) for word in self.words)
        return answers and not self.bearers and self.denies is not None

    @property
    def is_headed(self) -> bool:
        """ "(melanoma)", ": no melanoma", ", positive for melanoma": completes the clause before it."""
        continues = self.denies is not None or self.words[0].text in ("of", "for")
        marks = (":", "(", ",") if continues else (":", "(")
        return self.joiner in marks and self.names_melanoma and not self.bearers

    @property
    def is_in_the_patient(self) -> bool:
        """ "No melanoma in this patient"; a history only together with the family's."""
        texts = {word.text for word in self.words}
        return self.names_melanoma and "in" in texts and not texts.isdisjoint(("patient", "him", "himself", "herself"))

    @property
    def is_denied_twice(self) -> bool:
        """ "Is not denied", "no relative without": ambiguous."""
        return sum(word.text in history_words("deniers") for word in self.words) > 1

    @property
    def is_of_a_person(self) -> bool:
        """ "He has not", "the patient has had one", "never in her"."""
        if self.bearers or self.names_melanoma:
            return False
        in_person = self.words[-1].text in ("her", "him", "patient") and any(word.text == "in" for word in self.words)
        return (self.has("persons") and self.has("telling")) or (in_person and self.denies is not None)

    @property
    def refers_to_melanoma(self) -> bool:
        """ "She had one before": refers to a melanoma named earlier."""
        return self.is_of_a_person and self.has("past") and self.has("anaphora")


def histories(text: str, start: int) -> tuple[list[TextClaim], list[tuple[int, int]]]:
    """The histories in `text` from `start` on, and the spans of their words."""
    if HINT.search(text, start) is None or "melanoma" not in text.lower():
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
    """ "Histories of melanoma: personal none, family one"."""
    if clause is not clauses[0] or len(clauses) == 1 or clause.has("family", "personal"):
        return False
    return clauses[1].joiner == ":" and (bool(clauses[1].bearers) or clauses[1].is_of_a_person)


def _opens(clause: Clause, clauses: Sequence[Clause]) -> bool:
    """ "Melanoma: none in her own history": a heading, which names no diagnosis."""
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
    """ "Diagnosed with", "a relative with" melanoma."""
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
