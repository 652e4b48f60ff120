"""The verifier's word lists: neutral words and claims are disjoint, and each word is listed once."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from dermnote_notegen.verify.lexicon import read

NEUTRAL = [*read("neutral")["words"].split(), *read("neutral")["phrases"]]
RECORD = [word for words in read("record").values() for word in words.split()]


def forms(table: Any) -> Iterator[str]:
    """Every form in a table of words/claims.toml."""
    if isinstance(table, str):
        yield table
    else:
        yield from itertools.chain.from_iterable(map(forms, table.values() if isinstance(table, dict) else table))


CLAIMED = {form for name, table in read("claims").items() if name != "says_no" for form in forms(table)}


@pytest.mark.parametrize("words", [NEUTRAL, RECORD], ids=["neutral", "record"])
def test_no_neutral_word_is_also_a_claim_or_listed_twice(words: list[str]) -> None:
    assert set(words) & CLAIMED == set()
    assert [word for word, count in Counter(words).items() if count > 1] == []


def test_the_two_lists_of_neutral_words_are_disjoint() -> None:
    assert set(NEUTRAL) & set(RECORD) == set()


def test_every_self_negating_word_is_a_symptom_word() -> None:
    symptoms = read("claims")["symptoms"]

    assert {(name, word) for name, words in read("claims")["says_no"].items() for word in words} <= {
        (name, word) for name, words in symptoms.items() for word in words
    }
