"""Extracts the claims that a text makes about patient and lesion, each with its position, negation and typicality.

Works sentence by sentence: numbers by pattern, histories by clauses, the rest by the lexicon. Unknown words are claims
too ("unrecognised"), so that no word goes unverified. Pure functions, independent of the facts.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from dermnote_notegen.verify.findings import Run, readings, runs
from dermnote_notegen.verify.lexicon import FINDING, NEUTRAL, Lexicon, Match, TextClaim, role
from dermnote_notegen.verify.patterns import patterned
from dermnote_notegen.verify.qualifiers import (
    Negation,
    denial_after,
    is_denied_itself,
    is_denied_likewise,
    is_denied_with_others,
    is_of_someone,
    qualified,
    says_it_is_here,
    typical_here,
)

SENTENCE = re.compile(r"(?:[^.;!?\n]|\.(?=\d)|\.(?=\w))+[.;!?\n]*")

# "It was noted." after a statement of what is typical claims that this lesion shows the typical finding.
IMPLIED_AFTER = re.compile(
    r"\s*(?:(?:it|this|that|these|they|all|both)\s+)?(?:(?:is|was|are|were|has been|have been)\s+)?"
    r"(?:also\s+)?(?:noted|seen|found|present|confirmed|visible|observed|evident|there|yes)\s*[.;!]?\s*",
    re.IGNORECASE,
)
# "Bleeding? No." means "Bleeding: no."
ANSWERED = re.compile(r"\?(?=\s+(?:yes|no|none|nil)\s*(?:[.;,]|$))", re.IGNORECASE)

# Headings and the words that replace them: "Not reported: itch, pain" denies what it lists, so it becomes "No";
# "History:" is neutral and becomes "details", unless its sentence names a cancer.
HEADINGS = (
    (re.compile(r"\bnot (?:reported|present|noted|recorded|seen)(?=\s*:)", re.IGNORECASE), "No"),
    (
        re.compile(r"(?:^|(?<=[.;\n] )|(?<=\n))history(?=: (?![^.;\n]*(?:melanoma|cancer|carcinoma)))", re.IGNORECASE),
        "details",
    ),
)


def claims(text: str, lexicon: Lexicon) -> list[TextClaim]:
    """Every claim of a text, in text order."""
    found: list[TextClaim] = []
    text = ANSWERED.sub(":", text)
    for heading, word in HEADINGS:
        text = heading.sub(partial(_pad, word), text)
    continues = was_general = False  # a general statement continues after a semicolon
    for match in SENTENCE.finditer(text):
        sentence = _Sentence(text, match.start(), match.end(), lexicon, continues=continues)
        found += (claim for claim in sentence.claims() if claim.field != NEUTRAL)
        if was_general and IMPLIED_AFTER.fullmatch(match[0]):
            implied = match[0].strip()
            start = match.start() + match[0].index(implied)
            found.append(TextClaim("never.implied", implied, start, start + len(implied)))
        was_general = sentence.is_general
        continues = sentence.is_general and match[0].rstrip().endswith(";")
    return sorted(_merge_borders(found), key=lambda claim: (claim.start, claim.end))


def _pad(word: str, match: re.Match[str]) -> str:
    return word.ljust(len(match[0]))


def _merge_borders(found: list[TextClaim]) -> Iterator[TextClaim]:
    """A border described as sharp and as indistinct ("sharp here, indistinct there") is a mixed one."""
    own = [claim for claim in found if claim.field == "findings.border" and not (claim.typical or claim.negated)]
    mixed = {claim.value for claim in own} >= {"sharp", "indistinct"}
    for claim in found:
        yield replace(claim, value="mixed") if mixed and claim in own else claim


class _Sentence:
    """One sentence, read from left to right."""

    def __init__(self, whole: str, start: int, end: int, lexicon: Lexicon, *, continues: bool) -> None:
        self._text = text = whole[start:end]
        self._offset = start
        numbers, spans = patterned(whole, start, end, lexicon)
        self._numbers = [replace(claim, start=claim.start - start, end=claim.end - start) for claim in numbers]
        self._matches = list(lexicon.scan(text, skip=[(first - start, last - start) for first, last in spans]))
        plain = [match for match in self._matches if not match.is_finding]
        self._cued = _is_of_most(self._matches) or any(match.is_cue for match in plain)
        names = any(match.value("diagnosis") or match.is_of_the_diagnosis for match in plain)
        refers_back = bool(plain) and plain[0].words[0] in role("refers_back")
        about_all = (continues and not says_it_is_here(text)) or (self._cued and (names or refers_back))
        self.is_general = about_all and not is_of_this_lesion(self._matches)

    def claims(self) -> Iterator[TextClaim]:
        negation, subject = Negation(self._text), Subject()
        numbers = list(self._numbers)
        found = list(runs(self._matches, self._text))
        readings_of = readings(found, self._text)
        after = {match.start: following for match, following in itertools.pairwise(self._matches)}
        for run in found:
            for match in run.matches:
                while numbers and numbers[0].start < match.start:
                    negation.skip_claim(numbers[0].field)
                    yield self._placed(numbers.pop(0), negated=negation.is_on)
                negation.advance(match)
                subject.advance(match, after.get(match.start))
                typical = self.is_general or (self._cued and subject.is_general)
                for claim in self._of(match, run, typical=typical, readings=readings_of.get(run, ())):
                    denied = is_denied_itself(self._text, claim.start) if claim.field == "sex" else negation.is_on
                    yield self._placed(claim, negated=denied)
        for number in numbers:
            negation.skip_claim(number.field)
            yield self._placed(number, negated=negation.is_on)
        for claim in self._qualified():
            yield self._placed(claim, negated=False)

    def _qualified(self) -> Iterator[TextClaim]:
        """Claims made by qualifiers: "another melanoma", "not denied"."""
        for kind, start, end in qualified(self._matches, self._text):
            if not (kind == "others" and self._cued):  # not in "many melanomas typically show"
                yield TextClaim(f"never.{kind}", self._text[start:end], start, end)
        if span := typical_here(self._matches, self._text):
            yield TextClaim("never.implied", self._text[slice(*span)], *span)

    def _of(
        self, match: Match, run: Run, *, typical: bool, readings: tuple[frozenset[str], ...]
    ) -> Iterator[TextClaim]:
        if not match.meanings:
            kind = "number" if match.words[0][0].isdigit() else "unrecognised"
            yield TextClaim(kind, match.words[0], match.start, match.end)
        meanings = [
            m for m in match.meanings if m.field != NEUTRAL and not _other_reading(m.field, match, typical=typical)
        ]
        denied = bool(meanings) and (
            self._is_denied_after(match.end)
            or is_denied_likewise(self._text, match.start)
            or is_denied_with_others(match, self._text)
        )
        finding = (readings, frozenset(match.finding_words), run.things(self._text)) if match.is_finding else ()
        for meaning in meanings:
            if is_of_someone(meaning.field, self._text, match.start):
                yield TextClaim("never.others", meaning.value, match.start, match.end)
                continue
            negated = denied or (meaning.field.startswith("symptoms.") and match.says_no)
            yield TextClaim(meaning.field, meaning.value, match.start, match.end, negated, typical, *finding)

    def _is_denied_after(self, end: int) -> bool:
        """True for "wart" in "the wart is not present"; False in "the wart is not raised", which denies the raising."""
        until = denial_after(self._text, end)
        if until is None:
            return False
        later = (match for match in self._matches if match.end > until and match.words[0] not in role("passed_over"))
        following = next(later, None)
        return following is None or not following.claims or bool(self._text[until : following.start].strip())

    def _placed(self, claim: TextClaim, *, negated: bool) -> TextClaim:
        return replace(
            claim,
            start=claim.start + self._offset,
            end=claim.end + self._offset,
            negated=claim.negated or negated,
        )


def _is_of_most(matches: Sequence[Match]) -> bool:
    """True if "most" means what is usual: in "most melanomas show", not in "most of the melanoma"."""
    return any(
        left.words == ("most",) and right.value("diagnosis") and right.words[-1].endswith(("mas", "vi", "ses", "nes"))
        for left, right in itertools.pairwise(matches)
    )


def _other_reading(field_name: str, match: Match, *, typical: bool) -> bool:
    """True if the phrase does not mean this field here: "raised" is a finding if typical, otherwise a symptom."""
    if field_name == FINDING:
        return not typical and (match.words[0] in role("containers") or match.is_closed_finding or match.is_symptom)
    return typical and match.is_symptom and field_name.startswith("symptoms.") and match.value(FINDING) is not None


class Subject:
    """Tracks what the words are about: this lesion, or a diagnosis in general."""

    def __init__(self) -> None:
        self.is_general = False
        self._of_this = False
        self._after_name = False

    def advance(self, match: Match, following: Match | None) -> None:
        """Read a phrase. "The lesion shows" after a diagnosis is about this lesion, "around the lesion" is not."""
        if match.is_finding:
            return
        words = set(match.words)
        names = match.value("diagnosis") is not None or match.is_of_the_diagnosis
        acts = following is not None and following.words[0] in role("verbs")
        if self._after_name and "which" in words:
            self._of_this, self.is_general = False, True
        elif following is not None and following.is_cue and words & role("pronouns"):
            pass  # "it typically shows" is about lesions of its kind
        elif not names and words & role("one_lesion") and (not self.is_general or acts or words & role("pronouns")):
            self._of_this, self.is_general = True, False
        elif not self._of_this and (names or words & role("many_lesions")):
            self.is_general = True
        self._after_name = names


def _is_a_hallmark(matches: Sequence[Match], number: int) -> bool:
    """True if the match means a lesion in general, not the patient's: "a raised lesion is typical of it"."""
    articles = [
        match.words[0] for match in matches[:number] if match.words[0] in ("a", "an", "the", "this", "his", "her")
    ]
    verb = matches[number + 1 : number + 2]
    called = any(match.is_cue for match in matches[number + 2 : number + 5])
    return articles[-1:] in (["a"], ["an"]) and called and bool(verb) and verb[0].words[0] in role("copulas")


def is_of_this_lesion(matches: Sequence[Match]) -> bool:
    """True if a sentence is about the lesion at hand.

    It is if a word for the lesion is a pronoun, is followed by a verb, or precedes every diagnosis and every word such
    as "typical". In "melanoma typically shows a halo around the lesion", none of these applies.
    """
    named = False
    for number, (match, following) in enumerate(itertools.pairwise([*matches, None])):
        if match is None or match.is_finding or len(match.words) > 1 or _is_a_hallmark(matches, number):
            named = named or (match is not None and match.value("diagnosis") is not None)
            continue
        word = match.words[0]
        named = named or match.value("diagnosis") is not None or match.is_cue
        acts = following is not None and following.words[0] in role("verbs") and following.start == match.end + 1
        of_its_kind = following is not None and following.is_cue and word in role("pronouns")
        of_the = number > 1 and matches[number - 1].words == ("the",) and matches[number - 2].joins and not acts
        if (
            word in role("one_lesion")
            and not (of_its_kind or of_the)
            and (not named or acts or word in role("pronouns"))
        ):
            return True
    return False
