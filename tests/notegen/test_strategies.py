"""What each strategy must state, and which requests it refuses."""

from typing import Any

import pytest

from dermnote_contracts.notes import NoteRequest
from dermnote_contracts.problems import DermnoteError, NoFacts, StrategyNeedsDiagnosis, StrategyNotOffered
from dermnote_notegen.preview import offered_strategies, preview
from dermnote_notegen.strategies import facts_to_state, field_names, is_blinded

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


def facts(strategy: str, metadata: dict[str, Any] = EVERYTHING, **more: Any) -> dict[str, Any]:
    """The facts that a request must state."""
    return facts_to_state(NoteRequest.model_validate({"metadata": metadata, "strategy": strategy} | more))


def test_m_states_the_diagnosis_alone() -> None:
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
def test_include_leaves_the_other_topics_out(include: list[str], names: list[str]) -> None:
    assert field_names(facts("P2", include=include)) == names


def test_without_the_diagnosis_a_note_is_blinded() -> None:
    assert is_blinded(facts("P2", include=["demographics", "site"]))
    assert is_blinded(facts("P2", metadata={"age": 61}))
    assert not is_blinded(facts("P2"))


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
        ("P1", {}, StrategyNotOffered),
        ("P3", {}, StrategyNotOffered),
        ("G", {}, StrategyNotOffered),
    ],
)
def test_what_a_strategy_cannot_write_is_refused(
    strategy: str, more: dict[str, Any], error: type[DermnoteError]
) -> None:
    with pytest.raises(error) as caught:
        facts(strategy, **more)
    assert type(caught.value) is error
    assert strategy in caught.value.detail


@pytest.mark.parametrize("strategy", ["M", "P2"])
def test_the_preview_lists_what_the_note_must_state(strategy: str) -> None:
    request = NoteRequest.model_validate({"metadata": EVERYTHING, "strategy": strategy})
    shown = preview(request)
    assert shown.facts == facts(strategy)
    assert (shown.prompt is None) == (strategy == "M")
    assert not shown.blinded


def test_every_strategy_on_offer_has_a_version_and_says_what_it_states() -> None:
    offered = {info.id: info for info in offered_strategies()}
    assert set(offered) == {"M", "P2"}
    assert offered["M"].states == ["diagnosis"]
    assert offered["P2"].states == ["demographics", "site", "diagnosis"]
    assert (offered["M"].uses_llm, offered["P2"].uses_llm) == (False, True)
    assert all(info.prompt_version.startswith(f"{info.id}-") for info in offered.values())
