"""Composition: every text of any facts is faithful and complete, leaves no trace of what was not given, and varies."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermnote_contracts.metadata import walk
from dermnote_contracts.vocabulary import diagnoses
from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.note_grammar import (
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


def drawn(facts: Mapping[str, Any], seed: int, **more: Any) -> str:
    prior = PRIORS.get(facts.get("diagnosis", ""))
    return build_note_grammar(facts, prior=prior, seed=seed, **more).draw(random.Random(seed))


@many
@given(facts=lesions(), seed=SEEDS)
def test_any_text_of_any_facts_is_faithful_and_complete(facts: dict[str, Any], seed: int) -> None:
    for text in (drawn(facts, seed), write_skeleton(facts, seed=seed)):
        verdict = VERIFIER.verify(text, facts=facts)
        assert verdict.verification.faithful, (text, verdict.verification)
        assert verdict.verification.coverage == 1
        assert {fact.field for fact in verdict.facts} == {path for path, _ in walk(facts)}


@many
@given(facts=lesions(), seed=SEEDS)
def test_it_is_one_paragraph_of_whole_sentences(facts: dict[str, Any], seed: int) -> None:
    text = drawn(facts, seed)

    assert text[0].isupper()
    assert text.endswith(".")
    assert not any(wrong in text for wrong in ("  ", "..", " .", " ,", "{", "}", "None", "unknown"))


def test_a_field_that_is_not_given_leaves_no_trace() -> None:
    only_site = {write_skeleton({"site": "back"}, seed=seed) for seed in range(200)}

    for words in ("age", "year", "man", "sex", "diagnos", "not ", "no ", "recorded as", "type"):
        assert not [text for text in only_site if words in text], words


@given(facts=lesions(), seed=SEEDS)
def test_a_blinded_note_says_nothing_typical(facts: dict[str, Any], seed: int) -> None:
    blinded = {name: value for name, value in facts.items() if name not in ("diagnosis", "benign_malignant")}

    assert not blinded or "ypical" not in drawn(blinded, seed)


@given(facts=lesions(), seed=SEEDS)
def test_one_seed_gives_one_wording(facts: dict[str, Any], seed: int) -> None:
    assert drawn(facts, seed) == drawn(facts, seed)


def test_different_seeds_give_different_wordings() -> None:
    assert len({write_skeleton(FACTS, seed=seed) for seed in range(64)}) >= 48
    assert len({drawn(FACTS, seed) for seed in range(64)}) == 64


@pytest.mark.parametrize("most", [10, 40, 60, 250])
def test_words_are_limited_as_far_as_the_facts_allow(most: int) -> None:
    longest_facts = max(build_note_grammar(FACTS, prior=None, seed=seed).most_words() for seed in range(60))

    assert max(len(drawn(FACTS, seed, max_words=most).split()) for seed in range(60)) <= max(most, longest_facts)


@pytest.mark.parametrize(("most", "said"), [(10, False), (250, True)])
def test_what_is_typical_is_said_where_there_is_room(most: int, said: bool) -> None:
    texts = [drawn(FACTS, seed, max_words=most) for seed in range(40)]

    assert {"ypical" in text or "characteristic" in text for text in texts} == {said}


def test_what_is_typical_never_jars_with_a_given_border_or_symmetry() -> None:
    facts = {"diagnosis": "melanoma", "findings": {"border": "sharp", "asymmetry": "symmetric"}}

    for seed in range(200):
        text = drawn(facts, seed)
        assert text.count("border") + text.count("margin") == 1, text
        assert text.count("symmetr") == 1, text


def test_m_says_superclass_class_and_subclass() -> None:
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
def test_names_of_people_have_a_capital(facts: dict[str, Any], words: str) -> None:
    assert all(words in write_skeleton(facts, seed=seed) for seed in range(10))


def test_one_year_is_no_years() -> None:
    texts = [write_skeleton({"age": 1}, seed=seed) for seed in range(40)]
    assert any("1 year" in text for text in texts)
    assert not any("1 years" in text for text in texts)
