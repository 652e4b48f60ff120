"""Faithful notes in many wordings: what people write beside full sentences, and the verifier must understand."""

import json
from pathlib import Path
from typing import Any

import pytest

from dermnote_notegen.priors import load_priors
from dermnote_notegen.verify import Verifier

VERIFIER = Verifier(load_priors())
LINES = (Path(__file__).parent / "corpus" / "wordings.jsonl").read_text("utf-8").splitlines()
CASES: list[dict[str, Any]] = [json.loads(line) for line in LINES]


@pytest.mark.parametrize("case", CASES, ids=[case["text"][:50] for case in CASES])
def test_a_natural_wording_is_understood(case: dict[str, Any]) -> None:
    verdict = VERIFIER.verify(case["text"], facts=case["facts"]).verification

    assert verdict.faithful, verdict


@pytest.mark.parametrize("case", CASES, ids=[case["text"][:50] for case in CASES])
def test_the_same_wording_is_held_against_a_note_of_other_facts(case: dict[str, Any]) -> None:
    assert not VERIFIER.verify(case["text"], facts={"site": "scalp"}).verification.faithful
