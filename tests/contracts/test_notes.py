"""NoteRequest and related models: defaults, equal JSON for equal requests, bounds, token sums."""

import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from dermnote_contracts.completions import CompletionRequest
from dermnote_contracts.notes import ALL_TOPICS, Batch, Counts, NoteRequest, Tokens

PRINT_REQUEST = """
from dermnote_contracts.notes import NoteRequest
print(NoteRequest.model_validate({"metadata": {"sex": "F", "age": "61.0"}, "include": ["site", "diagnosis", "history"]})
      .model_dump_json())
"""


def printed(hash_seed: int) -> str:
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-c", PRINT_REQUEST]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_request_has_the_same_json_in_every_process() -> None:
    assert len({printed(seed) for seed in (1, 2, 3, 4)}) == 1


def test_the_order_of_include_does_not_matter() -> None:
    one = NoteRequest.model_validate({"metadata": {"age": 1}, "include": ["site", "diagnosis", "symptoms"]})
    other = NoteRequest.model_validate({"metadata": {"age": 1}, "include": ["symptoms", "site", "diagnosis"]})
    assert one.model_dump_json() == other.model_dump_json()


def test_a_request_round_trips_through_json() -> None:
    request = NoteRequest.model_validate(
        {
            "metadata": {"age": 0.5, "diagnosis": "mel", "symptoms": {"itch": True}, "findings": {"colours": ["tan"]}},
            "strategy": "P2",
            "include": ["diagnosis"],
            "options": {"seed": 7, "n": 3, "on_unfaithful": "keep"},
        }
    )
    assert NoteRequest.model_validate_json(request.model_dump_json()) == request


def test_the_defaults_are_as_documented() -> None:
    request = NoteRequest.model_validate({"metadata": {}})
    assert (request.strategy, request.include, request.options.n) == ("G", ALL_TOPICS, 1)
    assert (request.options.on_unfaithful, request.options.seed) == ("retry", None)


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": "P9"},
        {"strategy": "m"},
        {"include": ["everything"]},
        {"options": {"n": 0}},
        {"options": {"n": 9}},
        {"options": {"seed": -1}},
        {"options": {"seed": 2**31}},
        {"options": {"temperature": 2.1}},
        {"options": {"temperature": float("nan")}},
        {"options": {"max_words": 9}},
        {"options": {"on_unfaithful": "ignore"}},
        {"options": {"top_k": 4}},
        {"patient": "x"},
    ],
    ids=repr,
)
def test_unknown_or_invalid_fields_are_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NoteRequest.model_validate({"metadata": {"age": 1}} | change)


def test_token_counts_add_up_by_field() -> None:
    total = Tokens(prompt=1, cached=2, sampled=3) + Tokens(prompt=10, forced=20, sampled=30, decisions=40)
    assert total == Tokens(prompt=11, cached=2, forced=20, sampled=33, decisions=40)


def test_ended_counts_finished_failed_and_cancelled_jobs() -> None:
    assert Batch(id="b", total=9, counts=Counts(queued=1, running=2, finished=3, failed=2, cancelled=1)).ended == 6


@pytest.mark.parametrize("change", [{"prompt": ""}, {"max_tokens": 0}, {"seed": 2**32}, {"deadline_s": 0}, {"n": 2}])
def test_a_completion_request_out_of_bounds_is_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"prompt": "x"} | change)
