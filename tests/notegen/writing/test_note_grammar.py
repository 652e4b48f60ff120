"""The note grammar: every text is faithful and complete, has no trace of missing facts, and varies."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermnote_contracts.metadata import walk
from dermnote_contracts.vocabulary import diagnoses
from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.grammar import (
    article,
    build_note_grammar,
    person_in_short,
    write_skeleton,
    write_template,
)
from dermnote_notegen.writing.priors import load_priors
from tests.notegen.invented import lesions

PRIORS = load_priors()
VERIFIER = Verifier(PRIORS)
SEEDS = st.integers(0, 2**31 - 1)
FACTS = {"age": 61, "sex": "female", "site": "back", "diagnosis": "nevus"}
many = settings(max_examples=300, deadline=None)


def sampled(facts: Mapping[str, Any], seed: int, **more: Any) -> str:
    prior = PRIORS.get(facts.get("diagnosis", ""))
    return build_note_grammar(facts, prior=prior, seed=seed, **more).draw(random.Random(seed))


@many
@given(facts=lesions(), seed=SEEDS)
def test_any_text_of_any_facts_is_faithful_and_complete(facts: dict[str, Any], seed: int) -> None:
    for text in (sampled(facts, seed), write_skeleton(facts, seed=seed)):
        verdict = VERIFIER.verify(text, facts=facts)
        assert verdict.verification.faithful, (text, verdict.verification)
        assert verdict.verification.coverage == 1
        assert {fact.field for fact in verdict.facts} == {path for path, _ in walk(facts)}


@many
@given(facts=lesions(), seed=SEEDS)
def test_a_note_is_one_paragraph_of_whole_sentences(facts: dict[str, Any], seed: int) -> None:
    text = sampled(facts, seed)

    assert text[0].isupper()
    assert text.endswith(".")
    assert not any(wrong in text for wrong in ("  ", "..", " .", " ,", "{", "}", "None", "unknown"))


def test_a_missing_field_leaves_no_trace() -> None:
    only_site = {write_skeleton({"site": "back"}, seed=seed) for seed in range(200)}

    for words in ("age", "year", "man", "sex", "diagnos", "not ", "no ", "recorded as", "type"):
        assert not [text for text in only_site if words in text], words


@given(facts=lesions(), seed=SEEDS)
def test_a_blinded_note_has_no_typical_findings(facts: dict[str, Any], seed: int) -> None:
    blinded = {name: value for name, value in facts.items() if name not in ("diagnosis", "benign_malignant")}

    assert not blinded or "ypical" not in sampled(blinded, seed)


@given(facts=lesions(), seed=SEEDS)
def test_one_seed_gives_one_wording(facts: dict[str, Any], seed: int) -> None:
    assert sampled(facts, seed) == sampled(facts, seed)


def test_different_seeds_give_different_wordings() -> None:
    assert len({write_skeleton(FACTS, seed=seed) for seed in range(64)}) >= 48
    assert len({sampled(FACTS, seed) for seed in range(64)}) == 64


@pytest.mark.parametrize("most", [10, 40, 60, 250])
def test_the_word_limit_is_kept_unless_the_facts_need_more_words(most: int) -> None:
    longest_facts = max(build_note_grammar(FACTS, prior=None, seed=seed).most_words() for seed in range(60))

    assert max(len(sampled(FACTS, seed, max_words=most).split()) for seed in range(60)) <= max(most, longest_facts)


@pytest.mark.parametrize(("most", "said"), [(10, False), (250, True)])
def test_typical_findings_are_stated_if_the_word_limit_allows(most: int, said: bool) -> None:
    texts = [sampled(FACTS, seed, max_words=most) for seed in range(40)]

    assert {"ypical" in text or "characteristic" in text for text in texts} == {said}


def test_typical_findings_never_contradict_a_given_border_or_symmetry() -> None:
    facts = {"diagnosis": "melanoma", "findings": {"border": "sharp", "asymmetry": "symmetric"}}

    for seed in range(200):
        text = sampled(facts, seed)
        assert text.count("border") + text.count("margin") == 1, text
        assert text.count("symmetr") == 1, text


def test_m_states_superclass_class_and_subclass() -> None:
    assert (
        write_template({"diagnosis": "melanoma"}) == "This image shows a malignant skin lesion of the class melanoma."
    )
    assert write_template({"diagnosis": "nodular melanoma"}) == (
        "This image shows a malignant skin lesion of the class melanoma, subclass nodular melanoma."
    )


@pytest.mark.parametrize("diagnosis", sorted(diagnoses()))
def test_the_template_of_every_diagnosis_is_faithful(diagnosis: str) -> None:
    facts = {"diagnosis": diagnosis}

    assert VERIFIER.verify(write_template(facts), facts=facts).verification.faithful


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("8-year-old girl", "an"), ("18-year-old man", "an"), ("80-year-old man", "an"), ("11-year-old boy", "an"),
     ("61-year-old man", "a"), ("110-year-old man", "a"), ("actinic keratosis", "an"), ("nevus", "a")],
)  # fmt: skip
def test_articles(phrase: str, expected: str) -> None:
    assert article(phrase) == f"{expected} {phrase}"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"age": 8, "sex": "female"}, "8-year-old girl"),
        ({"age": 17, "sex": "male"}, "17-year-old boy"),
        ({"age": 18, "sex": "male"}, "18-year-old man"),
        ({"sex": "female"}, "woman"),
        ({"age": 8}, "8-year-old patient"),
        ({}, "patient"),
    ],
)
def test_a_child_is_a_boy_or_a_girl(facts: dict[str, Any], words: str) -> None:
    assert person_in_short(facts) == words


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"diagnosis": "reed or spitz nevus"}, "Reed or Spitz nevus"),
        ({"diagnosis": "merkel cell carcinoma"}, "Merkel cell carcinoma"),
    ],
)
def test_eponyms_are_capitalised(facts: dict[str, Any], words: str) -> None:
    assert all(words in write_skeleton(facts, seed=seed) for seed in range(10))


def test_one_year_is_singular() -> None:
    texts = [write_skeleton({"age": 1}, seed=seed) for seed in range(40)]
    assert any("1 year" in text for text in texts)
    assert not any("1 years" in text for text in texts)
