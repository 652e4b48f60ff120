"""Phrase grammars: references, optional and absent rules, capitals; what is drawn is what the GBNF allows."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_contracts.completions import CompletionRequest
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.writing.phrase_grammar import PhraseGrammar, Rule, UnknownRule, resolve

RULES = {
    "root": ["{Who} {sees} {what?}{!nothing}.", "It is {nothing}."],
    "who": ["a cat", "the dog"],
    "sees": ["sees", "saw"],
    "what": ["a bird"],
    "nothing": [],
}


def test_a_reference_takes_a_rules_text_and_a_capital_where_it_asks() -> None:
    texts = set(resolve(RULES).texts())

    assert texts == {"A cat sees a bird.", "A cat saw a bird.", "The dog sees a bird.", "The dog saw a bird."}


def test_an_alternative_that_needs_a_missing_rule_falls_out_and_an_optional_one_vanishes() -> None:
    without = resolve(RULES | {"what": []})

    assert "It is" not in "".join(without.texts())
    assert set(without.texts()) == {"A cat sees .", "A cat saw .", "The dog sees .", "The dog saw ."}


def test_an_alternative_that_wants_a_rule_absent_falls_out_when_it_is_there() -> None:
    assert set(resolve(RULES | {"nothing": ["nothing"]}).texts()) == {"It is nothing."}


def test_a_rule_that_nothing_defines_is_named() -> None:
    with pytest.raises(UnknownRule, match="whom"):
        resolve(RULES | {"root": ["{whom}"]})


def test_alternatives_can_be_made_of_rules() -> None:
    grammar = resolve({"root": [(Rule("a"), " and ", Rule("b"))], "a": ["x"], "b": ["y", "z"]})

    assert set(grammar.texts()) == {"x and y", "x and z"}


def test_most_words_is_the_length_of_the_longest_text() -> None:
    grammar = resolve(RULES)

    assert grammar.most_words() == max(len(text.split()) for text in grammar.texts())


@given(seed=st.integers(0, 2**32))
def test_what_is_drawn_is_a_text_of_the_grammar(seed: int) -> None:
    assert resolve(RULES).draw(random.Random(seed)) in set(resolve(RULES).texts())


@given(seed=st.integers(0, 2**32), most=st.integers(1, 3))
def test_narrowing_keeps_at_most_so_many_alternatives_of_the_same(seed: int, most: int) -> None:
    grammar = PhraseGrammar({"root": tuple((word,) for word in "abcdef")})

    narrowed = grammar.narrowed(random.Random(seed), most=most)

    texts = list(narrowed.texts())
    assert len(texts) == most
    assert set(texts) <= set(grammar.texts())


def test_the_gbnf_allows_exactly_the_texts() -> None:
    grammar = resolve(RULES)
    model = ScriptedModel()

    asked = [CompletionRequest(prompt="x", grammar=grammar.gbnf(before=" "), seed=seed) for seed in range(60)]
    texts = {model.complete(one, stop=lambda: False).choices[0].text.strip() for one in asked}

    assert texts == set(grammar.texts())


def test_quotes_and_backslashes_survive_the_gbnf() -> None:
    grammar = resolve({"root": ['say "so" \\ ü']})

    assert grammar.gbnf() == 'root ::= note\nnote ::= "say \\"so\\" \\\\ ü"\n'


def test_a_row_of_rules_is_written_sentence_by_sentence_in_the_same_texts() -> None:
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
