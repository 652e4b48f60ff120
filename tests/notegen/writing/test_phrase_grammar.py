"""Phrase grammars: references, optional and absent rules, capitals; samples and GBNF have the same texts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_contracts.completions import CompletionRequest
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.writing.grammar import PhraseGrammar, Rule, UnknownRule, resolve

RULES = {
    "root": ["{Who} {sees} {what?}{!nothing}.", "It is {nothing}."],
    "who": ["a cat", "the dog"],
    "sees": ["sees", "saw"],
    "what": ["a bird"],
    "nothing": [],
}


def test_a_reference_inserts_a_rules_text_capitalised_if_marked() -> None:
    texts = set(resolve(RULES).texts())

    assert texts == {"A cat sees a bird.", "A cat saw a bird.", "The dog sees a bird.", "The dog saw a bird."}


def test_an_alternative_with_an_empty_rule_is_dropped_and_an_optional_reference_is_empty() -> None:
    without = resolve(RULES | {"what": []})

    assert "It is" not in "".join(without.texts())
    assert set(without.texts()) == {"A cat sees .", "A cat saw .", "The dog sees .", "The dog saw ."}


def test_an_alternative_that_excludes_a_rule_is_dropped_if_the_rule_has_text() -> None:
    assert set(resolve(RULES | {"nothing": ["nothing"]}).texts()) == {"It is nothing."}


def test_an_undefined_rule_is_named_in_the_error() -> None:
    with pytest.raises(UnknownRule, match="whom"):
        resolve(RULES | {"root": ["{whom}"]})


def test_alternatives_can_consist_of_rules() -> None:
    grammar = resolve({"root": [(Rule("a"), " and ", Rule("b"))], "a": ["x"], "b": ["y", "z"]})

    assert set(grammar.texts()) == {"x and y", "x and z"}


def test_most_words_is_the_length_of_the_longest_text() -> None:
    grammar = resolve(RULES)

    assert grammar.most_words() == max(len(text.split()) for text in grammar.texts())


@given(seed=st.integers(0, 2**32))
def test_a_sampled_text_is_a_text_of_the_grammar(seed: int) -> None:
    assert resolve(RULES).draw(random.Random(seed)) in set(resolve(RULES).texts())


@given(seed=st.integers(0, 2**32), most=st.integers(1, 3))
def test_narrowing_keeps_at_most_the_given_number_of_alternatives(seed: int, most: int) -> None:
    grammar = PhraseGrammar({"root": tuple((word,) for word in "abcdef")})

    narrowed = grammar.narrowed(random.Random(seed), most=most)

    texts = list(narrowed.texts())
    assert len(texts) == most
    assert set(texts) <= set(grammar.texts())


def test_the_gbnf_allows_exactly_the_texts() -> None:
    grammar = resolve(RULES)
    model = ScriptedModel()

    requests = [CompletionRequest(prompt="x", grammar=grammar.gbnf(before=" "), seed=seed) for seed in range(60)]
    texts = {model.complete(one, cancelled=lambda: False).choices[0].text.strip() for one in requests}

    assert texts == set(grammar.texts())


def test_quotes_and_backslashes_survive_the_gbnf() -> None:
    grammar = resolve({"root": ['say "so" \\ ü']})

    assert grammar.gbnf() == 'root ::= note\nnote ::= "say \\"so\\" \\\\ ü"\n'


def test_a_sequence_of_rules_is_split_into_sentences_with_the_same_texts() -> None:
    grammar = resolve(
        {"root": ["{seen}{told?}{never?}"], "seen": ["Seen.", "Looked at."], "told": [" Told.", " Said."], "never": []}
    )

    first, second = grammar.sentences()

    assert {one + two for one in first.texts() for two in second.texts()} == set(grammar.texts())
    assert second.gbnf() == 'root ::= told\ntold ::= " Told." | " Said."\n'


@pytest.mark.parametrize("root", [["{a} and {b}"], ["{a}", "{b}"], ["{A}{b}"], ["text"]])
def test_any_other_grammar_is_one_sentence(root: list[str]) -> None:
    grammar = resolve({"root": root, "a": ["x"], "b": ["y"]})

    assert grammar.sentences() == (grammar,)
