"""The verdict: checks every claim of a text against the facts, and that every fact is stated. Pure functions."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar, Literal

from dermnote_contracts.metadata import walk
from dermnote_contracts.notes import Claim, StatedFact, Verification
from dermnote_contracts.vocabulary import diagnoses, sites
from dermnote_notegen.verify.claims import ANSWERED, SENTENCE, claims
from dermnote_notegen.verify.findings import NOTHING, Typical, modifiers, typical_of
from dermnote_notegen.verify.lexicon import FINDING, TextClaim, phrase, role
from dermnote_notegen.verify.vocabulary import note_lexicon
from dermnote_notegen.writing.priors import Prior

Judgement = Literal["stated", "agrees", "contradicted", "unsupported"]
# A note has at most 250 words; text beyond this length counts as unsupported without being read.
MAX_CHARS = 4000
# Words of the prompts, and a "Note:" that starts another note (before a lower-case word it is part of this one).
LEAKAGE = re.compile(
    r"\b(?:facts|instruction|example)\s*:|(?:^|\n\s*)notes?\s*:|[.!?]\s*notes?\s*:(?!\s*(?-i:[a-z]))"
    r"|\bas an ai\b|\bwrite (?:only|one)\b"
    r"|\bthe (?:list|facts|text|sentence|instructions) above\b|<\||\bsubclass\s*:",
    re.IGNORECASE,
)
# A word three times in a row, or four to nine words twice in a row.
LOOP = re.compile(
    r"\b([^\W\d]+)(?:\W+\1\b){2,}|\b((?:\w+[^\w.;!?]+){3,8}\w+)[^\w.;!?]+(?:and[^\w.;!?]+)?\2\b", re.IGNORECASE
)
# Question marks, emoji, square brackets and comparison signs express what word lists can't cover.
SIGN = re.compile(
    r"(?!\+(?:ve\b|\)|\s*(?:[.,;]|$))|(?<=\w )\+ \w|(?<![^\s,])\+[a-z])[^\w\s.,;:!'’‘\"“”()|\-–—−/&…=*•]+|_+"
)
YEARS_OF = {
    "infant": range(2),
    "toddler": range(1, 4),
    "child": range(18),
    "teenager": range(13, 20),
    "adult": range(18, 200),
}
TWO_SIDED = frozenset(
    (
        "personal_hx_mm",
        "family_hx_mm",
        *(f"symptoms.{name}" for name in ("itch", "hurt", "grew", "changed", "bleed", "elevation")),
    )
)
LISTS = ("findings.colours", "findings.structures")


@dataclass
class Verdict:
    """A verification, and the stated facts with their positions in the text."""

    verification: Verification
    facts: list[StatedFact] = field(default_factory=list)


class Verifier:
    """Judges texts. Build it once: its lexicon covers the vocabularies and the findings of all priors."""

    def __init__(self, priors: Mapping[str, Prior]) -> None:
        self._priors = priors
        findings = (finding for prior in priors.values() for finding in prior.findings)
        wordings = [wording for finding in findings for wording in finding.wordings]
        self._lexicon = note_lexicon(wordings)
        self._modifying = modifiers(wordings, self._lexicon)
        self._typical: dict[str, Typical] = {}

    def verify(self, text: str, *, facts: Mapping[str, Any], allowed: Mapping[str, Any] | None = None) -> Verdict:
        """Judge `text`: it must state all `facts` and claim nothing beyond `allowed` (the facts by default).

        Typical findings of a diagnosis may be stated only if `allowed` contains that diagnosis.
        """
        allowed = facts if allowed is None else allowed
        judge = _Judge(dict(walk(allowed)), self._typical_of(allowed.get("diagnosis", "")), text)
        required = dict(walk(facts))
        stated: list[StatedFact] = []
        wrong: dict[str, list[Claim]] = {"contradicted": [], "unsupported": list(_defects(text))}
        seen: set[tuple[str, str, int, int]] = set()
        for claim in claims(text[:MAX_CHARS], self._lexicon):
            judgement = judge(claim)
            if judgement == "stated" and (fact := _stated(claim, required)):
                stated.append(fact)
            elif judgement in wrong:
                named = _named(claim, text)
                key = (judgement, named.field, named.start, named.end)
                if key not in seen:
                    wrong[judgement].append(named)
                seen.add(key)
        missing = [name for name, value in required.items() if not _is_stated(name, value, stated)]
        verification = Verification(
            faithful=not (missing or wrong["contradicted"] or wrong["unsupported"]),
            coverage=1 - len(missing) / len(required) if required else 1.0,
            missing=missing,
            **wrong,
        )
        return Verdict(verification, sorted(stated, key=lambda fact: fact.start))

    def _typical_of(self, diagnosis: str) -> Typical:
        if diagnosis not in self._typical:
            prior = self._priors.get(diagnosis)
            self._typical[diagnosis] = typical_of(prior, self._lexicon, self._modifying) if prior else NOTHING
        return self._typical[diagnosis]


def _stated(claim: TextClaim, required: Mapping[str, Any]) -> StatedFact | None:
    name = "benign_malignant" if claim.field == "malignancy" else claim.field
    if name not in required:
        return None
    value = claim.value if name in LISTS else required[name]
    return StatedFact(field=name, value=value, start=claim.start, end=claim.end)


def _named(claim: TextClaim, text: str) -> Claim:
    """The claim as it appears in a verification."""
    name = "findings" if claim.field == FINDING else claim.field.removeprefix("never.")
    return Claim(field=name, text=text[claim.start : claim.end], start=claim.start, end=claim.end)


def _is_stated(name: str, value: Any, stated: Sequence[StatedFact]) -> bool:
    values = [fact.value for fact in stated if fact.field == name]
    return set(value) <= set(values) if name in LISTS else bool(values)


class _Judge:
    """Judges single claims of a text. `allowed`: dotted field -> value."""

    def __init__(self, allowed: Mapping[str, Any], typical: Typical, text: str) -> None:
        self._allowed = allowed
        self._typical = typical
        self._verbatim = [
            (start, end, not role("negators").isdisjoint(phrase(text[start:end])))
            for start, end in typical.verbatim(text)
        ]

    def __call__(self, claim: TextClaim) -> Judgement:
        if claim.typical and (claim.field == FINDING or claim.field.startswith("findings.")):
            return self._typical_finding(claim)
        if claim.typical and claim.field == "never.time" and self._typical.contains(claim.value):
            return "agrees"
        if claim.field in TWO_SIDED:
            return self._value(claim, _stated_value(claim))
        return self._BY_FIELD.get(claim.field, type(self)._plain)(self, claim)

    def _plain(self, claim: TextClaim) -> Judgement:
        """Compares the value with the given fact; a denial contradicts the fact, whatever value it denies."""
        if claim.negated and claim.field in self._allowed:
            return "contradicted"
        return self._value(claim, claim.value)

    def _image_type(self, claim: TextClaim) -> Judgement:
        """Dermoscopy in general ("dermoscopically, melanoma typically shows") says nothing about this image."""
        return "agrees" if claim.typical else self._plain(claim)

    def _value(self, claim: TextClaim, value: str) -> Judgement:
        if claim.field not in self._allowed:
            return "unsupported"
        given = str(self._allowed[claim.field])
        if value == given:
            return "stated"
        return "agrees" if value in _broader(claim.field, given) and not claim.negated else "contradicted"

    def _typical_finding(self, claim: TextClaim) -> Judgement:
        """Agrees if it is part of a verbatim wording, or one of its readings consists of the diagnosis's findings."""
        around = [denies for start, end, denies in self._verbatim if start <= claim.start and claim.end <= end]
        if claim.negated:  # agrees if the wording itself denies it: "a smooth, non-scaly surface"
            return "agrees" if any(around) or self._typical.lacks(claim.words) else "unsupported"
        return "agrees" if around or self._typical.fits(claim.readings, claim.things) else "unsupported"

    def _one_of_several(self, claim: TextClaim) -> Judgement:
        given = self._allowed.get(claim.field)
        if given is None:
            return "unsupported"
        values = claim.value.split("|")
        if claim.negated:
            return "contradicted" if set(values) & set(given) else "unsupported"
        if len(values) == 1:
            return "stated" if claim.value in given else "contradicted"
        return "agrees" if set(values) & set(given) else "contradicted"

    def _age(self, claim: TextClaim) -> Judgement:
        given = self._allowed.get("age")
        if claim.value in YEARS_OF:
            if given is None:  # "man" and "woman" fit any patient of unknown age
                return "agrees" if claim.value == "adult" else "unsupported"
            return "agrees" if given in YEARS_OF[claim.value] else "contradicted"
        return self._value(claim, claim.value)

    def _sex(self, claim: TextClaim) -> Judgement:
        """The patient's sex, even in a denial: "she has never had melanoma"."""
        return self._value(replace(claim, negated=False), claim.value)

    def _malignancy(self, claim: TextClaim) -> Judgement:
        given = self._allowed.get("benign_malignant")
        diagnosis = self._allowed.get("diagnosis")
        known = {value for value in (given, diagnoses()[diagnosis].superclass if diagnosis else None) if value}
        if not known:
            return "unsupported"
        if (claim.value in known) == claim.negated:
            return "contradicted"
        return "stated" if claim.value == given else "agrees"

    def _tumour(self, claim: TextClaim) -> Judgement:
        """Words such as "these tumours" agree with a malignant diagnosis and are unsupported otherwise."""
        diagnosis = self._allowed.get("diagnosis")
        is_malignant = diagnosis is not None and diagnoses()[diagnosis].superclass == "malignant"
        return "agrees" if is_malignant and not claim.negated else "unsupported"

    def _named(self, claim: TextClaim) -> Judgement:
        """A word of the diagnosis's name claims nothing new: "the cyst" for an epidermal cyst."""
        diagnosis = self._allowed.get("diagnosis")
        names = (diagnosis, *diagnoses()[diagnosis].synonyms) if diagnosis else ()
        word = claim.value.replace("metastases", "metastasis")
        named = any(word in phrase(name) for name in names)
        return "agrees" if named and not claim.negated else self._plain(claim)

    _BY_FIELD: ClassVar[Mapping[str, Callable[["_Judge", TextClaim], Judgement]]] = {
        "age": _age,
        "sex": _sex,
        "malignancy": _malignancy,
        "image_type": _image_type,
        "tumour": _tumour,
        FINDING: _named,
        "never.severity": _named,
        "findings.colours": _one_of_several,
        "findings.structures": _one_of_several,
    }


def _stated_value(claim: TextClaim) -> str:
    """The value of a symptom (yes, no) or a history (True, False); a negated claim has the opposite value."""
    if claim.field.startswith("symptoms."):
        return "no" if claim.negated else claim.value
    return str(not claim.negated)


def _broader(name: str, given: str) -> set[str]:
    """Broader terms that include the given one: true, but they don't state the fact."""
    if name == "diagnosis":
        return {diagnoses()[given].class_name}
    return _regions(given) if name == "site" else set()


@cache
def _regions(given: str) -> set[str]:
    """The sites that include the given one, by ISIC's hierarchy and ISIC's general sites."""
    site = sites()[given]
    general = [other for other in sites().values() if site.general and site.general in (other.name, *other.synonyms)]
    paths = [site.isic, *(other.isic for other in general)]
    above = {other.name for other in sites().values() for path in paths if path.startswith(f"{other.isic or path}:")}
    return above | {other.name for other in general}


def _defects(text: str) -> Iterator[Claim]:
    """Prompt leakage, repetitions, unsupported signs, and excess length."""
    if len(text) > MAX_CHARS:
        yield Claim(field="length", text=text[MAX_CHARS : MAX_CHARS + 40], start=MAX_CHARS, end=len(text))
        text = text[:MAX_CHARS]
    plain = ANSWERED.sub(":", text)
    for name, pattern in (("prompt_leakage", LEAKAGE), ("sign", SIGN), ("repetition", LOOP)):
        for match in pattern.finditer(plain):
            yield _defect(name, match, text)
    seen: set[str] = set()
    for match in SENTENCE.finditer(plain):
        sentence = match[0].strip().lower()
        if len(sentence) > 1 and sentence in seen:
            yield _defect("repetition", match, text)
        seen.add(sentence)


def _defect(name: str, match: re.Match[str], text: str) -> Claim:
    return Claim(field=name, text=text[match.start() : match.end()], start=match.start(), end=match.end())
