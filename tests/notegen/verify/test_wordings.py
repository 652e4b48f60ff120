"""What people write, in many wordings: faithful notes are understood, and what only sounds like the facts is not."""

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
# What asserts of this lesion, or of what is here, whatever else the sentence says of what is typical.
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
def test_the_same_wording_is_held_against_a_note_of_other_facts(case: dict[str, Any]) -> None:
    assert not VERIFIER.verify(case["text"], facts={"site": "scalp"}).verification.faithful


@pytest.mark.parametrize("case", MISLEADING, ids=range(len(MISLEADING)))
def test_words_of_the_facts_that_say_something_else_are_held_against(case: dict[str, Any]) -> None:
    assert not VERIFIER.verify(case["text"], facts=case["facts"]).verification.faithful


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_what_is_typical_can_not_be_said_of_this_lesion(diagnosis: str) -> None:
    for finding in PRIORS[diagnosis].findings:
        for sentence in OF_THIS_LESION:
            names = {"diagnosis": diagnosis, "Diagnosis": diagnosis[0].upper() + diagnosis[1:]}
            text = sentence.format(wording=finding.wordings[0], **names)

            verdict = VERIFIER.verify(text, facts={}, allowed={"diagnosis": diagnosis}).verification

            assert not verdict.faithful, text
