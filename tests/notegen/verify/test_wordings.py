"""Notes in many natural wordings: faithful ones are understood, misleading ones are rejected."""

import json
from pathlib import Path
from typing import Any

import pytest

from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.priors import load_priors

PRIORS = load_priors()
VERIFIER = Verifier(PRIORS)


def lines(name: str) -> list[dict[str, Any]]:
    text = (Path(__file__).parent / "corpus" / f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


CASES, MISLEADING = lines("wordings"), lines("misleading")
# Sentences that assert a finding of this lesion, whatever else they state as typical.
OF_THIS_LESION = [
    "The lesion shows {wording}.",
    "There is {wording}.",
    "A {diagnosis} with {wording} was seen.",
    "The {diagnosis} shows {wording}.",
    "The lesion, a {diagnosis}, shows {wording}, as is typical.",
    "Dermoscopy reveals {wording}.",
    "This {diagnosis} typically shows {wording}.",
    "The typical {wording} is visible in this lesion.",
    "A {diagnosis} with the usual {wording}.",
    "This is a typical {diagnosis} with {wording}.",
    "{Diagnosis} often shows {wording}, which was found.",
    "{Diagnosis} often shows {wording} (present).",
    "{Diagnosis} often shows {wording}. It was noted.",
    "As {diagnosis} often does, this shows {wording}.",
]


@pytest.mark.parametrize("case", CASES, ids=[case["text"][:50] for case in CASES])
def test_a_natural_wording_is_understood(case: dict[str, Any]) -> None:
    verdict = VERIFIER.verify(case["text"], facts=case["facts"]).verification

    assert verdict.faithful, verdict


@pytest.mark.parametrize("case", CASES, ids=[case["text"][:50] for case in CASES])
def test_the_same_wording_is_unfaithful_for_other_facts(case: dict[str, Any]) -> None:
    assert not VERIFIER.verify(case["text"], facts={"site": "scalp"}).verification.faithful


@pytest.mark.parametrize("case", MISLEADING, ids=range(len(MISLEADING)))
def test_the_facts_words_with_another_meaning_are_unfaithful(case: dict[str, Any]) -> None:
    assert not VERIFIER.verify(case["text"], facts=case["facts"]).verification.faithful


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_a_typical_finding_cannot_be_asserted_of_this_lesion(diagnosis: str) -> None:
    for finding in PRIORS[diagnosis].findings:
        for sentence in OF_THIS_LESION:
            names = {"diagnosis": diagnosis, "Diagnosis": diagnosis[0].upper() + diagnosis[1:]}
            text = sentence.format(wording=finding.wordings[0], **names)

            verdict = VERIFIER.verify(text, facts={}, allowed={"diagnosis": diagnosis}).verification

            assert not verdict.faithful, text
