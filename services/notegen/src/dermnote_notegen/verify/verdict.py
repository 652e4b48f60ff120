"""The verdict: every claim of a text held against the facts, and every fact looked for in the text.

This first verifier knows age, sex, site, diagnosis and malignancy, repetition and prompt leakage. What else a free
text says (colours, borders, history) it does not judge yet.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from dermnote_contracts.notes import Claim, StatedFact, Verification
from dermnote_contracts.vocabulary import diagnoses, sites
from dermnote_notegen.verify.claims import (
    TextClaim,
    age_claims,
    diagnosis_claims,
    malignancy_claims,
    sex_claims,
    site_claims,
)

Judgement = Literal["stated", "agrees", "contradicted", "unsupported"]
LEAKAGE = re.compile(r"\b(?:facts|note)\s*:|\bas an ai\b|<\|", re.IGNORECASE)


@dataclass
class Verdict:
    """A verification and the facts that were found, with their places in the text."""

    verification: Verification
    facts: list[StatedFact] = field(default_factory=list)


def verify(text: str, *, facts: dict[str, Any]) -> Verdict:
    """Judge `text` against `facts` (metadata field -> value): all must be stated, nothing else claimed."""
    stated: list[StatedFact] = []
    wrong: dict[str, list[Claim]] = {"contradicted": [], "unsupported": list(_defects(text))}
    for claim in _claims(text):
        judgement = _judge(claim, facts)
        if judgement == "stated":
            stated.append(StatedFact(field=claim.field, value=facts[claim.field], start=claim.start, end=claim.end))
        elif judgement in wrong:
            wrong[judgement].append(_as_claim(text, claim))
    missing = [name for name in facts if name not in {fact.field for fact in stated}]
    verification = Verification(
        faithful=not (missing or wrong["contradicted"] or wrong["unsupported"]),
        coverage=1 - len(missing) / len(facts) if facts else 1.0,
        missing=missing,
        **wrong,
    )
    return Verdict(verification, sorted(stated, key=lambda fact: fact.start))


def _claims(text: str) -> Iterator[TextClaim]:
    yield from age_claims(text)
    yield from sex_claims(text)
    yield from site_claims(text)
    yield from diagnosis_claims(text)
    yield from malignancy_claims(text)


def _as_claim(text: str, claim: TextClaim) -> Claim:
    return Claim(field=claim.field, text=text[claim.start : claim.end], start=claim.start, end=claim.end)


def _judge(claim: TextClaim, facts: dict[str, Any]) -> Judgement:
    if claim.field == "malignancy":
        return _judge_malignancy(claim, facts)
    if claim.field not in facts:
        return "unsupported"
    if claim.negated:
        return "contradicted"
    given = str(facts[claim.field])
    if claim.value == given:
        return "stated"
    return "agrees" if claim.value in _broader(claim.field, given) else "contradicted"


def _broader(name: str, given: str) -> set[str]:
    """Coarser terms that hold the given one: saying them is true, though it does not state the fact."""
    if name == "diagnosis":
        return {diagnoses()[given].klass}
    if name == "site":
        general = sites()[given].general
        return {site.name for site in sites().values() if general and general in (site.name, *site.synonyms)}
    return set()


def _judge_malignancy(claim: TextClaim, facts: dict[str, Any]) -> Judgement:
    if "diagnosis" not in facts:
        return "unsupported"
    superclass = diagnoses()[facts["diagnosis"]].superclass
    return "agrees" if (claim.value == superclass) != claim.negated else "contradicted"


def _defects(text: str) -> Iterator[Claim]:
    """Prompt leakage, a sentence said twice, a word said three times running."""
    for match in LEAKAGE.finditer(text):
        yield Claim(field="prompt_leakage", text=match[0], start=match.start(), end=match.end())
    for match in re.finditer(r"\b(\w+)(?:\W+\1\b){2,}", text, re.IGNORECASE):
        yield Claim(field="repetition", text=match[0], start=match.start(), end=match.end())
    seen: set[str] = set()
    for match in re.finditer(r"[^.!?]+[.!?]?", text):
        sentence = match[0].strip().lower()
        if len(sentence) > 1 and sentence in seen:
            yield Claim(field="repetition", text=match[0], start=match.start(), end=match.end())
        seen.add(sentence)
