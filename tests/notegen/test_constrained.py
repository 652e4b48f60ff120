"""Decoding under a grammar with fixed logits: what is forced, what is a choice, and which choice is taken."""

from collections.abc import Mapping

import numpy as np
import pytest

from dermnote_notegen.engine.model import GrammarRefused

llguidance = pytest.importorskip("llguidance")

from dermnote_notegen.engine.constrained import Constrained, Grammar, Logits  # noqa: E402  needs llguidance


class Letters:
    """A tokenizer of single bytes and a few longer pieces; what llguidance wants of one."""

    eos_token_id = 0
    bos_token_id = None

    def __init__(self) -> None:
        self.tokens = [b"<end>", *(bytes([code]) for code in range(1, 128)), b" red", b" blue", b" bluish", b" re"]
        self.special_token_ids = [0]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


LETTERS = Letters()
TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(LETTERS))
RED, BLUE, BLUISH, RE = (LETTERS.tokens.index(token) for token in (b" red", b" blue", b" bluish", b" re"))


class Fixed:
    """A model whose logits never change: `likes` are the tokens that it prefers."""

    def __init__(self, likes: Mapping[int, float]) -> None:
        self.taken: list[int] = []
        self._logits = np.zeros(len(LETTERS.tokens), dtype=np.float32)
        for token, value in likes.items():
            self._logits[token] = value

    def append(self, tokens: list[int]) -> None:
        self.taken += tokens

    def logits(self) -> Logits:
        return self._logits


def decode_with(model: Fixed, gbnf: str, *, most: int = 100) -> Constrained:
    return Grammar(gbnf, TOKENIZER).decode(
        model, max_tokens=most, temperature=0, random_=np.random.default_rng(0), stop=lambda: False
    )


def decode(
    gbnf: str, likes: Mapping[int, float], *, temperature: float = 0.0, most: int = 100
) -> tuple[str, Constrained]:
    done = Grammar(gbnf, TOKENIZER).decode(
        Fixed(likes), max_tokens=most, temperature=temperature, random_=np.random.default_rng(0), stop=lambda: False
    )
    return b"".join(LETTERS.tokens[token] for token in done.tokens).decode(), done


@pytest.mark.parametrize(("token", "text"), [(RED, "it is red."), (BLUE, "it is blue.")])
def test_the_likeliest_allowed_token_is_taken_and_the_rest_is_forced(token: int, text: str) -> None:
    said, done = decode('root ::= "it is" (" red" | " blue") "."', {token: 5.0, BLUISH: 50.0})

    assert said == text
    assert (done.sampled, done.decisions, done.finished) == (1, 1, True)
    assert done.forced == len("it is") + len(".")


def test_pieces_of_the_same_text_are_no_decision() -> None:
    said, done = decode('root ::= " red" | " redder"', {RE: 5.0})

    assert said in (" red", " redder")
    assert done.decisions <= 1


def test_a_fixed_text_is_forced_whole() -> None:
    said, done = decode('root ::= "nothing to choose"', {})

    assert said == "nothing to choose"
    assert (done.sampled, done.decisions) == (0, 0)


def test_the_model_is_shown_every_token_that_another_follows_and_in_order() -> None:
    model = Fixed({BLUE: 5.0})

    done = decode_with(model, 'root ::= "it is" (" red" | " blue") " or" (" red" | " blue")')

    assert done.forced + done.sampled == len(done.tokens)
    assert model.taken == done.tokens[:-1]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_fixed_text_keeps_to_the_limit_too(most: int) -> None:
    done = decode_with(Fixed({}), 'root ::= "a b c d e f g h"', most=most)

    assert (len(done.tokens), done.forced, done.finished) == (most, most, False)


@pytest.mark.parametrize(("token", "text"), [(0, " red"), (BLUE, " red blue")])
def test_to_end_or_to_go_on_is_a_choice(token: int, text: str) -> None:
    said, done = decode('root ::= " red" (" blue")?', {token: 5.0})

    assert (said, done.decisions, done.finished) == (text, 1, True)


def test_at_temperature_one_all_allowed_texts_come() -> None:
    grammar = 'root ::= (" red" | " blue" | " bluish") (" red" | " blue" | " bluish")'
    random_ = np.random.default_rng(1)
    texts = set()
    for _ in range(200):
        done = Grammar(grammar, TOKENIZER).decode(
            Fixed({}), max_tokens=100, temperature=1.0, random_=random_, stop=lambda: False
        )
        texts.add(b"".join(LETTERS.tokens[token] for token in done.tokens))

    assert len(texts) == 9


def test_the_limit_and_a_stop_end_it_unfinished() -> None:
    assert not decode('root ::= "a b c d e f g h"', {}, most=3)[1].finished
    stopped = Grammar('root ::= "abc"', TOKENIZER).decode(
        Fixed({}), max_tokens=9, temperature=0, random_=np.random.default_rng(0), stop=lambda: True
    )
    assert (stopped.tokens, stopped.finished) == ([], False)


@pytest.mark.parametrize("gbnf", ["root ::= (", "no grammar at all", "root ::= other", ""])
def test_what_is_no_grammar_is_refused(gbnf: str) -> None:
    with pytest.raises(GrammarRefused):
        Grammar(gbnf, TOKENIZER)
