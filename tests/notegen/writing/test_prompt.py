"""Prompts: they contain the facts and typical findings; blinded ones have no hints; only G has a grammar."""

import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dermnote_contracts.notes import NoteRequest, Strategy
from dermnote_contracts.vocabulary import diagnoses
from dermnote_notegen.writing.priors import load_priors
from dermnote_notegen.writing.prompt import Prompt, build_prompt, choose_examples
from dermnote_notegen.writing.strategies import CARRIED, note_facts, prompt_file
from tests.notegen.invented import lesions

PRIORS = load_priors()
FACTS = {
    "age": 61,
    "sex": "female",
    "site": "back",
    "diagnosis": "melanoma",
    "symptoms": {"itch": "yes", "bleed": "no"},
}
FREE: tuple[Strategy, ...] = ("P1", "P2", "P3")
WITH_MODEL: tuple[Strategy, ...] = (*FREE, "G")


def prompt_of(
    strategy: Strategy, metadata: dict[str, Any], *, seed: int = 0, grammar: bool = True, **more: Any
) -> Prompt:
    request = NoteRequest.model_validate({"metadata": metadata, "strategy": strategy} | more)
    facts = note_facts(request)
    prior = PRIORS.get(facts.diagnosis or "")
    return build_prompt(strategy, facts=facts, prior=prior, options=request.options, seed=seed, grammar=grammar)


def patient(prompt: Prompt) -> str:
    """The facts line of the patient."""
    return prompt.text.rpartition("Facts: ")[2]


@pytest.mark.parametrize("strategy", WITH_MODEL)
def test_a_prompt_begins_with_its_shared_instruction_and_ends_where_the_note_begins(strategy: Strategy) -> None:
    text = prompt_of(strategy, FACTS).text

    assert text.startswith(prompt_file(strategy).instruction)
    assert text.endswith("\nNote:")


def test_g_lists_typical_findings_and_leaves_the_facts_to_the_grammar() -> None:
    prompt = prompt_of("G", FACTS)

    assert all(finding.wordings[0] in prompt.text for finding in PRIORS["melanoma"].findings)
    assert "61" not in prompt.text
    assert prompt.text == prompt_of("G", FACTS | {"age": 30, "site": "face"}).text


def test_the_prompt_for_an_engine_without_grammars_has_the_facts() -> None:
    prompt = prompt_of("G", FACTS, grammar=False)

    typical, _, facts = prompt.text.partition("Facts: ")
    assert (prompt.grammar, prompt.segments) == (None, ())
    assert all(finding.wordings[0] in typical for finding in PRIORS["melanoma"].findings)
    assert {"61-year-old woman", "site back", "diagnosis melanoma", "itching yes", "bleeding no"} == set(
        facts.removesuffix(".\nNote:").split("; ")
    )


def test_each_sentence_of_the_grammar_is_a_segment_generated_from_the_prompt() -> None:
    segments = prompt_of("G", FACTS).segments

    assert len(segments) == len(["presentation", "symptoms", "typical", "outcome"])
    assert [segment.from_prompt for segment in segments] == [False, True, True, True]
    assert segments[0].grammar is not None
    assert segments[0].grammar.startswith('root ::= " " presentation\n')
    assert all(segment.max_tokens > 20 for segment in segments)


@pytest.mark.parametrize("strategy", FREE)
def test_only_g_has_a_grammar(strategy: Strategy) -> None:
    assert prompt_of(strategy, FACTS).grammar is None
    assert prompt_of("G", FACTS).grammar is not None


@settings(deadline=None)
@given(facts=lesions(), strategy=st.sampled_from(["P2", "P3", "G"]))
def test_a_blinded_prompt_does_not_depend_on_the_hidden_facts(facts: dict[str, Any], strategy: Strategy) -> None:
    known = {name: value for name, value in facts.items() if name not in ("diagnosis", "benign_malignant")}
    include = ["demographics", "site", "history", "symptoms", "findings"]
    assume(set(CARRIED[strategy]) & set(known))
    plain = prompt_of(strategy, known, include=include)

    for diagnosis in ("melanoma", "nevus", "basal cell carcinoma"):
        assert prompt_of(strategy, known | {"diagnosis": diagnosis}, include=include) == plain


@pytest.mark.parametrize("strategy", ["P2", "G"])
def test_a_blinded_prompt_has_no_disease_and_no_typical_findings(strategy: Strategy) -> None:
    text = prompt_of(strategy, FACTS, include=["demographics", "site"]).text.partition("\n")[2].lower()

    for name in diagnoses():
        assert not re.search(rf"\b{re.escape(name)}\b", text), name
    for word in ("benign", "malignant", "cancer", "typical", "pigment", "plaque"):
        assert word not in text, word


def test_examples_show_the_same_kinds_of_facts_as_the_request() -> None:
    text = prompt_of("P2", {"site": "back", "diagnosis": "melanoma"}).text

    assert "year" not in text
    assert text.count("Facts: site ") == 4
    assert text.count("; diagnosis ") == 4


@pytest.mark.parametrize(
    ("strategy", "metadata", "line"),
    [
        ("P2", {"site": "scalp"}, "site scalp"),
        ("P2", {"sex": "male", "diagnosis": "nv"}, "man; diagnosis nevus"),
        ("P3", {"age": 30, "symptoms": {"grew": "no"}}, "30-year-old patient; growth no"),
        ("G", {"family_hx_mm": False}, "family history of melanoma no"),
    ],
)
def test_the_patients_line_has_the_given_facts_and_none_of_an_example(
    strategy: Strategy, metadata: dict[str, Any], line: str
) -> None:
    assert patient(prompt_of(strategy, metadata, grammar=False)) == f"{line}.\nNote:"


def test_p1_names_superclass_class_and_the_given_findings() -> None:
    metadata = {"diagnosis": "nodular melanoma", "findings": {"border": "sharp"}}

    line = patient(prompt_of("P1", metadata))

    assert line == "superclass malignant; class melanoma; diagnosis nodular melanoma; border sharp.\nNote:"


def test_the_nearest_examples_are_chosen_with_the_nearest_last() -> None:
    examples = prompt_file("P2").examples

    chosen = choose_examples(examples, diagnosis="nodular melanoma")

    assert chosen[-1].facts["diagnosis"] == "melanoma"
    assert len(chosen) == 3
    assert choose_examples(examples, diagnosis=None) == examples[:3]


@pytest.mark.parametrize("strategy", WITH_MODEL)
def test_options_reach_the_model(strategy: Strategy) -> None:
    plain = prompt_of(strategy, FACTS)
    with_options = prompt_of(strategy, FACTS, options={"temperature": 0.7, "max_words": 30})

    assert (plain.temperature, with_options.temperature) == (prompt_file(strategy).temperature, 0.7)
    assert (plain.max_tokens, with_options.max_tokens) == (round(prompt_file(strategy).max_words * 2.5), 75)


def test_a_seed_changes_the_wordings_only() -> None:
    one, other = prompt_of("G", FACTS, seed=1), prompt_of("G", FACTS, seed=2)

    assert one.text == other.text
    assert one.grammar != other.grammar
    assert one == prompt_of("G", FACTS, seed=1)
