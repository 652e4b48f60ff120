"""Decoding under a grammar with fixed logits: forced tokens, decisions, and sampled tokens."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest

from dermnote_notegen.engine.model import GrammarError

llguidance = pytest.importorskip("llguidance")

from dermnote_notegen.engine.sampling import Grammar, Logits, Sampler, SamplingParams, Vocabulary  # noqa: E402  needs llguidance  # noqa: E402
from dermnote_notegen.engine.sequence import Decoder, Output, OutputSegment, SegmentedDecoder, TextDecoder  # noqa: E402


class Letters:
    """A tokenizer of single bytes and a few longer pieces, with llguidance's interface."""

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
    """Constant logits: `likes` are the tokens that the model prefers."""
    logits = np.zeros(len(LETTERS.tokens), dtype=np.float32)
    for token, value in likes.items():
        logits[token] = value
    return logits


def run(decoder: Decoder, likes: Mapping[int, float]) -> tuple[Output, list[int]]:
    """(the output, the tokens that the model saw)."""
    shown: list[int] = []
    continuation = decoder.begin()
    while not continuation.ended:
        shown += continuation.tokens
        continuation = decoder.next(fixed(likes))
    return decoder.output, shown


GREEDY = SamplingParams(temperature=0)


def constrained(gbnf: str, *, most: int = 100, params: SamplingParams = GREEDY, seed: int = 0) -> Decoder:
    grammar = Grammar(gbnf, VOCABULARY)
    return TextDecoder(Sampler(params, seed=seed), VOCABULARY, max_tokens=most, grammar=grammar)


def decode(gbnf: str, likes: Mapping[int, float], *, most: int = 100) -> tuple[str, Output]:
    done, _ = run(constrained(gbnf, most=most), likes)
    return done.text.decode(), done


@pytest.mark.parametrize(("token", "text"), [(RED, "it is red."), (BLUE, "it is blue.")])
def test_the_likeliest_allowed_token_is_sampled_and_the_rest_is_forced(token: int, text: str) -> None:
    said, done = decode('root ::= "it is" (" red" | " blue") "."', {token: 5.0, BLUISH: 50.0})

    assert said == text
    assert (done.sampled, done.decisions, done.finished) == (1, 1, True)
    assert done.forced == len("it is") + len(".")


def test_tokens_that_split_the_same_text_differently_are_not_a_decision() -> None:
    said, done = decode('root ::= " red" | " redder"', {RE: 5.0})

    assert said in (" red", " redder")
    assert done.decisions <= 1


def test_a_fixed_text_is_fully_forced() -> None:
    said, done = decode('root ::= "nothing to choose"', {})

    assert said == "nothing to choose"
    assert (done.sampled, done.decisions) == (0, 0)


def test_the_model_sees_every_token_before_a_choice_in_order() -> None:
    done, shown = run(constrained('root ::= "it is" (" red" | " blue") " or" (" red" | " blue")'), {BLUE: 5.0})

    assert done.forced + done.sampled == len(done.tokens)
    assert shown == done.tokens[:-1]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_forced_text_respects_the_limit(most: int) -> None:
    _, done = decode('root ::= "a b c d e f g h"', {}, most=most)

    assert (len(done.tokens), done.forced, done.finished) == (most, most, False)


@pytest.mark.parametrize(("token", "text"), [(0, " red"), (BLUE, " red blue")])
def test_ending_or_continuing_is_a_decision(token: int, text: str) -> None:
    said, done = decode('root ::= " red" (" blue")?', {token: 5.0})

    assert (said, done.decisions, done.finished) == (text, 1, True)


def test_at_temperature_one_all_allowed_texts_occur() -> None:
    grammar = 'root ::= (" red" | " blue" | " bluish") (" red" | " blue" | " bluish")'
    texts = {run(constrained(grammar, params=SamplingParams(), seed=seed), {})[0].text for seed in range(200)}

    assert len(texts) == 9


def test_a_text_cut_by_the_limit_is_not_finished() -> None:
    assert not decode('root ::= "a b c d e f g h"', {}, most=3)[1].finished


@pytest.mark.parametrize("top_k", [0, 1, 3])
def test_sampling_first_and_masking_first_allow_the_same_texts(top_k: int) -> None:
    grammar = 'root ::= " red" | " blue" | [a-z]+ "!"'
    likes = {RED: 3.0, ord("Q"): 3.0, ord("z"): 2.0}

    texts = {
        run(constrained(grammar, params=SamplingParams(top_k=top_k), seed=seed, most=4), likes)[0].text
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
def test_plain_and_general_grammars_are_parsed_alike(gbnf: str) -> None:
    text, done = decode(gbnf, {}, most=60)

    assert done.finished or len(done.tokens) == 60
    assert text


def test_free_text_ends_at_an_end_token_a_stop_text_or_the_limit() -> None:
    def free(likes: Mapping[int, float], *, most: int = 8, stop: tuple[str, ...] = ()) -> Output:
        sampler = Sampler(SamplingParams(temperature=0), seed=0)
        return run(TextDecoder(sampler, VOCABULARY, max_tokens=most, stop=stop), likes)[0]

    ended, cut, limited = free({0: 9.0}), free({BLUISH: 9.0}, stop=("ish", "zz")), free({RED: 9.0}, most=3)

    assert (ended.text, ended.finished, ended.sampled) == (b"", True, 1)
    assert (cut.text, cut.finished, cut.sampled) == (b" blu", True, 1)
    assert (limited.text, limited.finished, limited.sampled) == (b" red red red", False, 3)


def test_a_stop_text_over_several_tokens_is_found() -> None:
    sampler = Sampler(SamplingParams(temperature=0), seed=0)

    done, _ = run(TextDecoder(sampler, VOCABULARY, max_tokens=9, stop=["aaa"]), {ord("a"): 9.0})

    assert (done.text, done.sampled, done.finished) == (b"", 3, True)


def test_segments_alternate_and_fixed_text_is_never_sampled() -> None:
    def sampler() -> Sampler:
        return Sampler(SamplingParams(temperature=0), seed=0)

    parts = [
        OutputSegment(LETTERS("it is")),
        OutputSegment(constrained('root ::= " red" | " blue"', most=9)),
        OutputSegment(LETTERS(" and")),
        OutputSegment(TextDecoder(sampler(), VOCABULARY, max_tokens=9, stop=["ish"])),
        OutputSegment(LETTERS(".")),
    ]

    done, shown = run(SegmentedDecoder(parts, VOCABULARY), {RED: 5.0, BLUISH: 9.0})

    assert done.text == b"it is red and blu."
    assert (done.sampled, done.forced, done.finished) == (2, len("it is and."), True)
    assert shown == [*LETTERS("it is"), RED, *LETTERS(" and")]


@pytest.mark.parametrize("gbnf", ["root ::= (", "no grammar at all", "root ::= other", ""])
def test_an_invalid_grammar_is_rejected(gbnf: str) -> None:
    with pytest.raises(GrammarError):
        Grammar(gbnf, VOCABULARY)


# A vocabulary with every text of a, b and c up to eight letters: computing a mask over all of them takes more items
# than llguidance allows if a letter may belong to many words; checking a single token does not.
class Syllables(Letters):
    """A tokenizer with llguidance's interface; the tokens of Letters come first."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens += ["".join(letters).encode() for size in range(2, 9) for letters in product("abc", repeat=size)]


TOO_WIDE = 'root ::= ([a-z]+ | [a-y]+ "z" | [b-z]+)* "!"'
SYLLABLES = Syllables()
WIDE_VOCABULARY = Vocabulary(llguidance.LLTokenizer(llguidance.TokenizerWrapper(SYLLABLES)))


@pytest.mark.parametrize("top_k", [0, 1])
def test_a_grammar_that_fails_midway_raises_an_error(top_k: int) -> None:
    sampler = Sampler(SamplingParams(top_k=top_k), seed=0)
    decoder = TextDecoder(sampler, WIDE_VOCABULARY, max_tokens=9, grammar=Grammar(TOO_WIDE, WIDE_VOCABULARY))
    decoder.begin()
    logits = np.zeros(len(SYLLABLES.tokens), dtype=np.float32)
    logits[ord("Q")] = 9.0  # the token sampled first is rejected, so the mask is computed too

    with pytest.raises(GrammarError, match="the grammar stopped"):
        decoder.next(logits)

    assert not decoder.output.finished


def test_every_result_of_a_failed_matcher_raises_an_error() -> None:
    grammar = Grammar(TOO_WIDE, WIDE_VOCABULARY)
    assert grammar.accepts(ord("a"))
    with pytest.raises(GrammarError):
        grammar.allowed()

    calls = (lambda: grammar.finished, lambda: grammar.accepts(LETTERS.eos_token_id), lambda: grammar.advance(RED))
    for call in calls:
        with pytest.raises(GrammarError):
            call()
