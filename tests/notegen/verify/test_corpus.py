"""The verifier on labelled notes: precision and recall of "unfaithful".

frozen.jsonl was written and labelled by readers who did not know the verifier, and was not read while it was tuned with
the others: open.jsonl; earlier.jsonl, which was held out until 24 November 2026; faithful.jsonl and planted.jsonl. They
contain real outputs of P1 to P3, faithful notes in many wordings, and notes with one planted error.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.priors import load_priors

FOLDER = Path(__file__).parent / "corpus"
VERIFIER = Verifier(load_priors())
# Measured values, rounded down; the goal is 0.98 of each. They may only rise.
MINIMUM = {"open": (0.99, 0.99), "earlier": (0.99, 0.99), "frozen": (0.99, 0.99)}
FURTHER = {"faithful": (1840, 1782), "planted": (419, 411)}


def notes(half: str) -> list[dict[str, Any]]:
    """The labelled notes of one half."""
    return [json.loads(line) for line in (FOLDER / f"{half}.jsonl").read_text("utf-8").splitlines()]


def called_unfaithful(note: dict[str, Any]) -> bool:
    verdict = VERIFIER.verify(note["text"], facts=note["must_state"], allowed=note["may_state"])
    return not verdict.verification.faithful


@pytest.mark.parametrize("half", sorted(MINIMUM))
def test_precision_and_recall_of_unfaithful_notes(half: str) -> None:
    counts = Counter((called_unfaithful(note), not note["faithful"]) for note in notes(half))
    found, passed_wrongly, held_wrongly = counts[True, True], counts[False, True], counts[True, False]

    precision, recall = found / (found + held_wrongly), found / (found + passed_wrongly)

    least_precision, least_recall = MINIMUM[half]
    assert precision >= least_precision
    assert recall >= least_recall


@pytest.mark.parametrize("kind", sorted(FURTHER))
def test_further_notes_are_judged_as_labelled(kind: str) -> None:
    further = notes(kind)
    count, least = FURTHER[kind]

    right = sum(called_unfaithful(note) is not note["faithful"] for note in further)

    assert len(further) == count
    assert right >= least


def test_the_corpus_is_large_and_diverse() -> None:
    everything = [*notes("open"), *notes("frozen")]
    real = [note for note in everything if note["origin"] in ("P1", "P2", "P3")]

    assert len(everything) >= 400
    assert len(real) >= 150
    assert len({note["id"] for note in everything}) == len(everything)
    for half in ("open", "frozen"):
        labels = Counter(note["faithful"] for note in notes(half))
        assert min(labels.values()) >= 50, labels
    assert len({note["claim"] for note in everything if note["origin"] == "planted"}) >= 20
