"""The skeleton: every wording of any facts is faithful, complete and says nothing else; its articles are right."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_contracts.vocabulary import diagnoses, sites
from dermnote_notegen.skeleton import article, template_m, write_skeleton
from dermnote_notegen.verify import verify
from dermnote_notegen.verify.claims import age_claims, diagnosis_claims, malignancy_claims, sex_claims, site_claims

AGES = st.one_of(st.integers(0, 120), st.sampled_from([0.5, 1.5, 8.5, 11.25, 88.5]))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "age": AGES,
    "sex": st.sampled_from(["male", "female"]),
    "site": st.sampled_from(sorted(sites())),
    "diagnosis": st.sampled_from(sorted(diagnoses())),
}
FACTS = st.fixed_dictionaries({}, optional=VALUES).filter(bool)
SEEDS = st.integers(0, 2**31 - 1)


@given(facts=FACTS, seed=SEEDS)
def test_any_facts_in_any_wording_are_faithful_and_complete(facts: dict[str, Any], seed: int) -> None:
    text = write_skeleton(facts, seed=seed)
    verdict = verify(text, facts=facts).verification
    assert verdict.faithful, (text, verdict)
    assert verdict.coverage == 1


@given(facts=FACTS, seed=SEEDS)
def test_a_fact_that_was_not_given_is_not_mentioned(facts: dict[str, Any], seed: int) -> None:
    text = write_skeleton(facts, seed=seed)
    claims = [*age_claims(text), *sex_claims(text), *site_claims(text), *diagnosis_claims(text)]
    assert {claim.field for claim in claims} == set(facts)
    assert list(malignancy_claims(text)) == []


@given(facts=FACTS, seed=SEEDS, data=st.data())
def test_any_one_fact_swapped_makes_it_unfaithful(facts: dict[str, Any], seed: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(facts)))
    other = data.draw(VALUES[name].filter(lambda value: value != facts[name]))
    text = write_skeleton(facts | {name: other}, seed=seed)
    assert not verify(text, facts=facts).verification.faithful, text


@given(facts=FACTS, seed=SEEDS, data=st.data())
def test_any_one_fact_left_out_is_missing(facts: dict[str, Any], seed: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(facts)))
    text = write_skeleton({key: value for key, value in facts.items() if key != name}, seed=seed)
    assert verify(text, facts=facts).verification.missing == [name]


@given(facts=FACTS, seed=SEEDS)
def test_one_seed_gives_one_wording(facts: dict[str, Any], seed: int) -> None:
    assert write_skeleton(facts, seed=seed) == write_skeleton(facts, seed=seed)


def test_different_seeds_give_different_wordings() -> None:
    facts = {"age": 61, "sex": "female", "site": "back", "diagnosis": "nevus"}
    assert len({write_skeleton(facts, seed=seed) for seed in range(64)}) >= 8


@given(facts=FACTS, seed=SEEDS)
def test_it_is_one_capitalised_paragraph_that_ends(facts: dict[str, Any], seed: int) -> None:
    text = write_skeleton(facts, seed=seed)
    assert text[0].isupper() or text[0].isdigit()
    assert text.endswith(".")
    assert "  " not in text
    assert ".." not in text


@pytest.mark.parametrize("age", [8, 11, 18, 80, 88, 89, 8.5, 11.25, 18.5])
def test_ages_that_sound_like_a_vowel_take_an(age: float) -> None:
    assert article(f"{age}-year-old woman").startswith("an ")


@pytest.mark.parametrize("age", [0, 0.5, 1, 7, 10, 12, 17, 28, 61, 110, 118, 1.8])
def test_other_ages_take_a(age: float) -> None:
    assert article(f"{age}-year-old woman").startswith("a ")


@pytest.mark.parametrize("name", sorted(diagnoses()))
def test_the_template_of_strategy_m_states_its_diagnosis_and_agrees_with_it(name: str) -> None:
    text = template_m({"diagnosis": name})
    assert verify(text, facts={"diagnosis": name}).verification.faithful, text
    assert diagnoses()[name].superclass in text


def test_the_template_of_strategy_m_names_the_subclass_only_where_it_is_one() -> None:
    assert template_m({"diagnosis": "nevus"}) == "This image shows a benign skin lesion of the class nevus."
    assert template_m({"diagnosis": "melanoma in situ"}) == (
        "This image shows a malignant skin lesion of the class melanoma, subclass melanoma in situ."
    )
