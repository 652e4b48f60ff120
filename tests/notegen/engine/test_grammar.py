"""Decoding under a grammar with fixed logits: what is forced, what is a choice, and which choice is taken."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest

from dermnote_notegen.engine.model import GrammarRefused

llguidance = pytest.importorskip("llguidance")

from dermnote_notegen.engine.decoding import Constrained, Free, Part, Program, Segmented, Written  # noqa: E402
from dermnote_notegen.engine.grammar import Grammar, Vocabulary  # noqa: E402  needs llguidance
from dermnote_notegen.engine.sampling import Logits, Sampler, Sampling  # noqa: E402


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
VOCABULARY = Vocabulary(llguidance.LLTokenizer(llguidance.TokenizerWrapper(LETTERS)))
RED, BLUE, BLUISH, RE = (LETTERS.tokens.index(token) for token in (b" red", b" blue", b" bluish", b" re"))


def fixed(likes: Mapping[int, float]) -> Logits:
    """Logits that never change: `likes` are the tokens that the model prefers."""
    logits = np.zeros(len(LETTERS.tokens), dtype=np.float32)
    for token, value in likes.items():
        logits[token] = value
    return logits


def run(program: Program, likes: Mapping[int, float]) -> tuple[Written, list[int]]:
    """(what was written, the tokens that the model was shown)."""
    shown: list[int] = []
    move = program.begin()
    while not move.ended:
        shown += move.tokens
        move = program.next(fixed(likes))
    return program.written, shown


GREEDY = Sampling(temperature=0)


def constrained(gbnf: str, *, most: int = 100, sampling: Sampling = GREEDY, seed: int = 0) -> Program:
    return Constrained(Grammar(gbnf, VOCABULARY), Sampler(sampling, seed=seed), VOCABULARY, max_tokens=most)


def decode(gbnf: str, likes: Mapping[int, float], *, most: int = 100) -> tuple[str, Written]:
    done, _ = run(constrained(gbnf, most=most), likes)
    return done.text.decode(), done


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


def test_the_model_is_shown_every_token_that_a_choice_follows_and_in_order() -> None:
    done, shown = run(constrained('root ::= "it is" (" red" | " blue") " or" (" red" | " blue")'), {BLUE: 5.0})

    assert done.forced + done.sampled == len(done.tokens)
    assert shown == done.tokens[:-1]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_fixed_text_keeps_to_the_limit_too(most: int) -> None:
    _, done = decode('root ::= "a b c d e f g h"', {}, most=most)

    assert (len(done.tokens), done.forced, done.finished) == (most, most, False)


@pytest.mark.parametrize(("token", "text"), [(0, " red"), (BLUE, " red blue")])
def test_to_end_or_to_go_on_is_a_choice(token: int, text: str) -> None:
    said, done = decode('root ::= " red" (" blue")?', {token: 5.0})

    assert (said, done.decisions, done.finished) == (text, 1, True)


def test_at_temperature_one_all_allowed_texts_come() -> None:
    grammar = 'root ::= (" red" | " blue" | " bluish") (" red" | " blue" | " bluish")'
    texts = {run(constrained(grammar, sampling=Sampling(), seed=seed), {})[0].text for seed in range(200)}

    assert len(texts) == 9


def test_the_limit_ends_it_unfinished() -> None:
    assert not decode('root ::= "a b c d e f g h"', {}, most=3)[1].finished


@pytest.mark.parametrize("top_k", [0, 1, 3])
def test_drawing_first_and_masking_first_allow_the_same(top_k: int) -> None:
    grammar = 'root ::= " red" | " blue" | [a-z]+ "!"'
    likes = {RED: 3.0, ord("Q"): 3.0, ord("z"): 2.0}

    texts = {
        run(constrained(grammar, sampling=Sampling(top_k=top_k), seed=seed, most=4), likes)[0].text
        for seed in range(60)
    }

    assert b" red" in texts
    assert not any(b"Q" in text for text in texts)


@pytest.mark.parametrize(
    "gbnf",
    [
        'root ::= note "."\nnote ::= "a \\"quoted\\" word" | "tab-less" other-name\nother-name ::= " x" | " y"',
        'root ::= "size: " ("5" | "6") " mm"',
        'root ::= [0-9]+ " mm"',
    ],
)
def test_plain_and_other_grammars_are_read_alike(gbnf: str) -> None:
    text, done = decode(gbnf, {}, most=60)

    assert done.finished or len(done.tokens) == 60
    assert text


def test_free_text_ends_at_an_end_token_a_stop_text_or_the_limit() -> None:
    def free(likes: Mapping[int, float], *, most: int = 8, stop: tuple[str, ...] = ()) -> Written:
        sampler = Sampler(Sampling(temperature=0), seed=0)
        return run(Free(sampler, VOCABULARY, max_tokens=most, stop=stop), likes)[0]

    ended, cut, limited = free({0: 9.0}), free({BLUISH: 9.0}, stop=("ish", "zz")), free({RED: 9.0}, most=3)

    assert (ended.text, ended.finished, ended.sampled) == (b"", True, 1)
    assert (cut.text, cut.finished, cut.sampled) == (b" blu", True, 1)
    assert (limited.text, limited.finished, limited.sampled) == (b" red red red", False, 3)


def test_a_stop_text_over_several_tokens_is_found() -> None:
    sampler = Sampler(Sampling(temperature=0), seed=0)

    done, _ = run(Free(sampler, VOCABULARY, max_tokens=9, stop=["aaa"]), {ord("a"): 9.0})

    assert (done.text, done.sampled, done.finished) == (b"", 3, True)


def test_segments_are_fixed_and_written_in_turn_and_what_is_fixed_is_never_sampled() -> None:
    def sampler() -> Sampler:
        return Sampler(Sampling(temperature=0), seed=0)

    parts = [
        Part(LETTERS("it is")),
        Part(Constrained(Grammar('root ::= " red" | " blue"', VOCABULARY), sampler(), VOCABULARY, max_tokens=9)),
        Part(LETTERS(" and")),
        Part(Free(sampler(), VOCABULARY, max_tokens=9, stop=["ish"])),
        Part(LETTERS(".")),
    ]

    done, shown = run(Segmented(parts, VOCABULARY), {RED: 5.0, BLUISH: 9.0})

    assert done.text == b"it is red and blu."
    assert (done.sampled, done.forced, done.finished) == (2, len("it is and."), True)
    assert shown == [*LETTERS("it is"), RED, *LETTERS(" and")]


@pytest.mark.parametrize("gbnf", ["root ::= (", "no grammar at all", "root ::= other", ""])
def test_what_is_no_grammar_is_refused(gbnf: str) -> None:
    with pytest.raises(GrammarRefused):
        Grammar(gbnf, VOCABULARY)


# A vocabulary with every text of a, b and c up to eight letters: looking ahead over all of them at once takes more
# items than llguidance has where one letter may belong to many words; a single token does not.
class Syllables(Letters):
    """What llguidance wants of a tokenizer; the tokens that Letters has come first."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens += ["".join(letters).encode() for size in range(2, 9) for letters in product("abc", repeat=size)]


TOO_WIDE = 'root ::= ([a-z]+ | [a-y]+ "z" | [b-z]+)* "!"'
SYLLABLES = Syllables()
WIDE_VOCABULARY = Vocabulary(llguidance.LLTokenizer(llguidance.TokenizerWrapper(SYLLABLES)))


@pytest.mark.parametrize("top_k", [0, 1])
def test_a_grammar_that_fails_while_it_is_followed_is_refused_and_no_finished_text(top_k: int) -> None:
    sampler = Sampler(Sampling(top_k=top_k), seed=0)
    program = Constrained(Grammar(TOO_WIDE, WIDE_VOCABULARY), sampler, WIDE_VOCABULARY, max_tokens=9)
    program.begin()
    logits = np.zeros(len(SYLLABLES.tokens), dtype=np.float32)
    logits[ord("Q")] = 9.0  # what is drawn first is refused, so the mask is asked for too

    with pytest.raises(GrammarRefused, match="came to a stop"):
        program.next(logits)

    assert not program.written.finished


def test_no_answer_of_a_matcher_that_has_failed_is_believed() -> None:
    grammar = Grammar(TOO_WIDE, WIDE_VOCABULARY)
    assert grammar.takes(ord("a"))
    with pytest.raises(GrammarRefused):
        grammar.allowed()

    for ask in (lambda: grammar.satisfied, lambda: grammar.takes(LETTERS.eos_token_id), lambda: grammar.take(RED)):
        with pytest.raises(GrammarRefused):
            ask()
