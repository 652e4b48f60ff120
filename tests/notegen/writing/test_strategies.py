"""The facts that each strategy must state, and the requests that it rejects."""

from typing import Any

import pytest

from dermnote_contracts.notes import NoteRequest
from dermnote_contracts.problems import DermnoteError, NoFacts, StrategyNeedsDiagnosis
from dermnote_notegen.api.catalogue import get_strategies
from dermnote_notegen.api.notes import preview_note
from dermnote_notegen.writing.priors import load_priors
from dermnote_notegen.writing.strategies import NoteFacts, note_facts

EVERYTHING = {
    "age": 61,
    "sex": "F",
    "site": "back",
    "diagnosis": "mel",
    "benign_malignant": "malignant",
    "image_type": "dermoscopic",
    "symptoms": {"itch": "yes"},
    "findings": {"border": "sharp"},
    "personal_hx_mm": True,
}


def of(strategy: str, metadata: dict[str, Any] = EVERYTHING, **more: Any) -> NoteFacts:
    """The facts that the note of a request must and may state."""
    return note_facts(NoteRequest.model_validate({"metadata": metadata, "strategy": strategy} | more))


def facts(strategy: str, metadata: dict[str, Any] = EVERYTHING, **more: Any) -> dict[str, Any]:
    """The facts that a request must state."""
    return dict(of(strategy, metadata, **more).stated)


def test_m_states_only_the_diagnosis() -> None:
    assert facts("M") == {"diagnosis": "melanoma"}


def test_p2_states_demographics_site_and_diagnosis() -> None:
    assert facts("P2") == {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"}


@pytest.mark.parametrize(
    ("include", "names"),
    [
        (["diagnosis"], ["diagnosis"]),
        (["demographics"], ["age", "sex"]),
        (["site", "demographics"], ["age", "sex", "site"]),
        (["site", "symptoms"], ["site"]),
    ],
)
def test_include_removes_the_other_topics(include: list[str], names: list[str]) -> None:
    assert list(facts("P2", include=include)) == names


def test_without_the_diagnosis_a_note_is_blinded() -> None:
    assert of("P2", include=["demographics", "site"]).diagnosis is None
    assert of("P2", metadata={"age": 61}).diagnosis is None
    assert of("P2").diagnosis == "melanoma"


def test_p1_states_the_diagnosis_and_may_use_other_included_facts() -> None:
    assert facts("P1") == {"diagnosis": "melanoma"}
    assert of("P1").allowed == NoteRequest.model_validate({"metadata": EVERYTHING}).metadata.given()
    assert set(of("P1", include=["diagnosis", "findings"]).allowed) == {
        "diagnosis", "benign_malignant", "findings", "image_type",
    }  # fmt: skip


def test_p3_states_everything_except_the_diagnosis() -> None:
    assert set(EVERYTHING) - set(facts("P3")) == {"diagnosis", "benign_malignant"}
    assert of("P3").allowed == of("P3").stated
    assert of("P3").diagnosis is None


def test_g_states_everything() -> None:
    assert set(facts("G")) == set(EVERYTHING)


def test_size_and_image_type_belong_to_the_findings() -> None:
    given = {"age": 50, "clin_size_long_diam_mm": 7, "image_type": "dermoscopic"}

    assert facts("G", given, include=["findings"]) == {"clin_size_long_diam_mm": 7, "image_type": "dermoscopic"}
    assert facts("G", given, include=["demographics"]) == {"age": 50}


@pytest.mark.parametrize(
    ("strategy", "more", "error"),
    [
        ("M", {"include": ["site"]}, StrategyNeedsDiagnosis),
        ("M", {"metadata": {"age": 61}}, StrategyNeedsDiagnosis),
        ("M", {"metadata": {}}, StrategyNeedsDiagnosis),
        ("P2", {"metadata": {}}, NoFacts),
        ("P2", {"metadata": {"sex": "unknown", "age": None}}, NoFacts),
        ("P2", {"metadata": {"symptoms": {"itch": "yes"}}}, NoFacts),
        ("P2", {"include": []}, NoFacts),
        ("P2", {"include": ["symptoms", "findings", "history"]}, NoFacts),
        ("P1", {"include": ["site"]}, StrategyNeedsDiagnosis),
        ("P3", {"include": ["diagnosis"]}, NoFacts),
        ("P3", {"metadata": {"diagnosis": "mel"}}, NoFacts),
        ("G", {"metadata": {}}, NoFacts),
        ("G", {"include": []}, NoFacts),
    ],
)
def test_a_request_that_a_strategy_cannot_write_is_rejected(
    strategy: str, more: dict[str, Any], error: type[DermnoteError]
) -> None:
    with pytest.raises(error) as caught:
        facts(strategy, **more)
    assert type(caught.value) is error
    assert strategy in caught.value.detail


@pytest.mark.parametrize("strategy", ["M", "P1", "P2", "P3", "G"])
def test_the_preview_lists_the_facts_that_the_note_must_state(strategy: str) -> None:
    request = NoteRequest.model_validate({"metadata": EVERYTHING, "strategy": strategy})
    shown = preview_note(request, priors=load_priors())
    assert shown.facts == facts(strategy)
    assert (shown.prompt is None) == (strategy == "M")
    assert (shown.grammar is not None) == (strategy == "G")
    assert shown.blinded == (strategy == "P3")


def test_every_strategy_reports_its_version_and_the_topics_it_states() -> None:
    offered = {info.id: info for info in get_strategies()}
    assert set(offered) == {"M", "P1", "P2", "P3", "G"}
    assert offered["M"].states == ["diagnosis"]
    assert offered["P2"].states == ["demographics", "site", "diagnosis"]
    assert (offered["M"].uses_llm, offered["P2"].uses_llm) == (False, True)
    assert all(info.prompt_version.startswith(f"{info.id}-") for info in offered.values())
