"""Writing a note: retries, fallback, reject, keep, variants; and the words that are made without a model."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import NoteOptions, NoteRequest
from dermnote_contracts.problems import NoFacts, StrategyNeedsDiagnosis, StrategyNotOffered
from dermnote_contracts.vocabulary import diagnoses, sites
from dermnote_notegen import prompts, skeleton
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.notes import NoteUnfaithful, tidy, write
from dermnote_notegen.strategies import facts_to_state
from dermnote_notegen.verify import verify
from dermnote_notegen.verify.claims import diagnosis_claims

FACTS = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"}
GOOD = "A 61-year-old woman presents with a melanoma on the back."
BAD = "A 61-year-old man presents with a melanoma on the back."

facts_strategy = st.fixed_dictionaries(
    {},
    optional={
        "age": st.integers(0, 120),
        "sex": st.sampled_from(("male", "female")),
        "site": st.sampled_from(sorted(sites())),
        "diagnosis": st.sampled_from(sorted(diagnoses())),
    },
).filter(bool)


class Scripted:
    """The scripted model as the worker sees an engine."""

    model = ("scripted", "0" * 64)

    def __init__(self, *texts: str) -> None:
        self.script = ScriptedModel(list(texts))

    def complete(self, request: CompletionRequest) -> CompletionResponse:
        return self.script.complete(request, stop=lambda: False)


def request(strategy: str = "P2", metadata: dict[str, Any] | None = None, **options: Any) -> NoteRequest:
    return NoteRequest.model_validate({"metadata": metadata or FACTS, "strategy": strategy, "options": options})


def test_an_unfaithful_text_is_asked_for_again_with_another_seed() -> None:
    engine = Scripted(BAD, BAD, GOOD)

    (note,) = write(request(), engine=engine, seed=1)

    assert note.text == GOOD
    assert (note.provenance.attempts, note.provenance.source) == (3, "llm")
    assert note.provenance.tokens.sampled == 3 * len(GOOD.split())
    assert len({asked.seed for asked in engine.script.asked}) == 3


def test_after_four_unfaithful_texts_the_template_takes_over_and_says_so() -> None:
    (note,) = write(request(), engine=Scripted(BAD), seed=1)

    assert (note.provenance.attempts, note.provenance.source) == (4, "template")
    assert note.verification.faithful


def test_the_policies_fallback_reject_and_keep_ask_once() -> None:
    (fallen,) = write(request(on_unfaithful="fallback"), engine=Scripted(BAD), seed=1)
    (kept,) = write(request(on_unfaithful="keep"), engine=Scripted(BAD), seed=1)

    assert (fallen.provenance.attempts, fallen.provenance.source) == (1, "template")
    assert (kept.text, kept.provenance.source, kept.verification.faithful) == (BAD, "llm", False)
    assert kept.verification.contradicted[0].field == "sex"
    with pytest.raises(NoteUnfaithful):
        write(request(on_unfaithful="reject"), engine=Scripted(BAD), seed=1)


def test_variants_differ_and_the_same_seed_gives_the_same_notes() -> None:
    one = write(request(n=4), engine=Scripted(BAD), seed=7)
    again = write(request(n=4), engine=Scripted(BAD), seed=7)

    assert len({note.text for note in one}) == 4
    assert [note.text for note in one] == [note.text for note in again]


def test_strategy_m_never_asks_the_model() -> None:
    engine = Scripted(BAD)

    (note,) = write(request("M", {"diagnosis": "superficial spreading melanoma"}), engine=engine, seed=1)

    assert engine.script.asked == []
    assert note.verification.faithful
    for words in ("malignant", "class melanoma", "superficial spreading melanoma"):
        assert words in note.text
    assert note.provenance.source == "template"


@given(facts=facts_strategy, seed=st.integers(0, 2**31))
def test_every_wording_of_the_skeleton_is_faithful_and_says_nothing_else(facts: dict[str, Any], seed: int) -> None:
    verdict = verify(skeleton.write_skeleton(facts, seed=seed), facts=facts)

    assert verdict.verification.faithful, verdict.verification
    assert {fact.field for fact in verdict.facts} == set(facts)


@given(facts=facts_strategy, seed=st.integers(0, 2**31), data=st.data())
def test_a_skeleton_of_other_facts_is_unfaithful(facts: dict[str, Any], seed: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(facts)))
    others = {
        "age": [age for age in range(121) if age != facts.get("age")],
        "sex": [sex for sex in ("male", "female") if sex != facts.get("sex")],
        "site": [site for site in sites() if site != facts.get("site")],
        "diagnosis": [diagnosis for diagnosis in diagnoses() if diagnosis != facts.get("diagnosis")],
    }
    text = skeleton.write_skeleton(facts | {name: data.draw(st.sampled_from(others[name]))}, seed=seed)

    assert not verify(text, facts=facts).verification.faithful


@given(diagnosis=st.sampled_from(sorted(diagnoses())))
def test_the_m_template_is_faithful_for_every_diagnosis(diagnosis: str) -> None:
    facts = {"diagnosis": diagnosis}

    assert verify(skeleton.template_m(facts), facts=facts).verification.faithful


@given(facts=facts_strategy)
def test_a_prompt_shows_the_facts_and_examples_with_the_same_kinds_of_facts(facts: dict[str, Any]) -> None:
    prompt = prompts.render("P2", facts=facts, options=NoteOptions()).text

    last = prompt.rpartition("Facts: ")[2]
    for name, value in facts.items():
        assert (str(value) in last) or (name == "sex" and any(word in last for word in ("man", "boy", "girl")))
    if "diagnosis" not in facts:
        assert list(diagnosis_claims(prompt)) == []
    if "age" not in facts:
        assert "year-old" not in prompt


def test_refusals_name_what_is_wrong() -> None:
    with pytest.raises(StrategyNotOffered, match="offered: M, P2"):
        facts_to_state(request("G"))
    with pytest.raises(StrategyNeedsDiagnosis):
        facts_to_state(request("M", {"age": 50}))
    with pytest.raises(NoFacts):
        facts_to_state(request("P2", {"symptoms": {"itch": True}}))


def test_include_leaves_facts_out_and_blinds_the_note() -> None:
    blinded = NoteRequest.model_validate({"metadata": FACTS, "strategy": "P2", "include": ["demographics", "site"]})

    assert facts_to_state(blinded) == {"age": 61, "sex": "female", "site": "back"}
    (note,) = write(blinded, engine=Scripted("A 61-year-old woman with a melanoma on the back."), seed=1)
    assert note.provenance.source == "template"
    assert "melanoma" not in note.text


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        (" One.  Two\n three.", True, "One. Two three."),
        ("One. Two thr", False, "One."),
        ("no end", False, ""),
        ("One. Two.", False, "One. Two."),
    ],
)
def test_a_sentence_that_the_token_limit_cut_is_dropped(text: str, finished: bool, expected: str) -> None:
    assert tidy(text, finished=finished) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("8-year-old girl", "an"), ("18-year-old man", "an"), ("80-year-old man", "an"), ("11-year-old boy", "an"),
     ("61-year-old man", "a"), ("110-year-old man", "a"), ("actinic keratosis", "an"), ("nevus", "a")],
)  # fmt: skip
def test_articles(phrase: str, expected: str) -> None:
    assert skeleton.article(phrase) == f"{expected} {phrase}"


def test_a_child_is_a_boy_or_a_girl_or_a_patient() -> None:
    words = {skeleton.person({"age": 8, "sex": "female"}, random.Random(seed)) for seed in range(20)}

    assert words == {"8-year-old girl", "8-year-old female patient"}
