"""Decoders with given logits, token by token: stop texts, limits, and the segments after them."""

from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

llguidance = pytest.importorskip("llguidance")

from dermnote_notegen.engine.sampling import Grammar, Sampler, SamplingParams, Vocabulary  # noqa: E402  # noqa: E402
from dermnote_notegen.engine.scheduler import Scheduler  # noqa: E402
from dermnote_notegen.engine.sequence import (  # noqa: E402  # noqa: E402
    Decoder,
    Outcome,
    Output,
    OutputSegment,
    SegmentedDecoder,
    Sequence,
    TextDecoder,
)
from tests.notegen.engine.fake_context import FakeContext  # noqa: E402

ALL_BYTES = [bytes([code]) for code in range(1, 256)]
PROMPT = [1, 2, 3]


class Pieces:
    """A greedy longest-match tokenizer; `spaced`: it adds a space in front, like SentencePiece."""

    eos_token_id = 0
    bos_token_id = None
    special_token_ids = (0,)

    def __init__(self, pieces: Iterable[bytes], *, spaced: bool = False) -> None:
        self.tokens = [b"<end>", *pieces]
        self._spaced = spaced

    def __call__(self, text: bytes | str) -> list[int]:
        rest = text.encode() if isinstance(text, str) else text
        rest = b" " + rest if self._spaced else rest
        result = []
        while rest:
            fits = [token for token, piece in enumerate(self.tokens) if token and rest.startswith(piece)]
            result.append(max(fits, key=lambda token: len(self.tokens[token])))
            rest = rest[len(self.tokens[result[-1]]) :]
        return result


def vocabulary_of(pieces: Pieces) -> Vocabulary:
    return Vocabulary(llguidance.LLTokenizer(llguidance.TokenizerWrapper(pieces)))


PIECES = Pieces([*ALL_BYTES, b" red", b" redder", b" blue", b" bluish", b" re", b"ish!"])
VOCABULARY = vocabulary_of(PIECES)
SPACED = Pieces([*ALL_BYTES, b" .", b", it", b"  "], spaced=True)


def token(piece: bytes) -> int:
    return PIECES.tokens.index(piece)


def greedy() -> Sampler:
    return Sampler(SamplingParams(temperature=0), seed=0)


def free(*, most: int = 20, stop: Iterable[str] = ()) -> TextDecoder:
    return TextDecoder(greedy(), VOCABULARY, max_tokens=most, stop=list(stop))


def guided(gbnf: str, *, most: int = 40, stop: Iterable[str] = (), top_k: int = 0) -> TextDecoder:
    sampler = Sampler(SamplingParams(temperature=0, top_k=top_k), seed=0)
    return TextDecoder(sampler, VOCABULARY, max_tokens=most, stop=list(stop), grammar=Grammar(gbnf, VOCABULARY))


def fixed(text: bytes, *, from_prompt: bool = False) -> OutputSegment:
    return OutputSegment(VOCABULARY.encode(text), from_prompt=from_prompt)


def run(decoder: Decoder, *pieces: bytes) -> tuple[Output, bytes]:
    """(output of a model that prefers these pieces in turn, the text that it saw last)."""
    path: list[int] = []
    continuation = decoder.begin()
    for piece in pieces:
        path = [*([] if continuation.from_prompt else path), *continuation.tokens]
        logits = np.zeros(len(PIECES.tokens), dtype=np.float32)
        logits[token(piece)] = 9.0
        continuation = decoder.next(logits)
        assert continuation.ended or continuation.tokens or continuation.from_prompt, "nothing to decode"
        if continuation.ended:
            break
    assert continuation.ended
    return decoder.output, VOCABULARY.decode(path)


# Stop texts.


@pytest.mark.parametrize("top_k", [0, 5])
def test_a_stop_text_ends_a_text_that_its_grammar_would_continue(top_k: int) -> None:
    done, _ = run(guided("root ::= [a-z\n]+", stop=["\n"], top_k=top_k), b"a", b"b", b"\n", b"c")

    assert (done.text, done.sampled, done.finished) == (b"ab", 3, True)


def test_a_forced_stop_text_ends_the_text_and_nothing_after_it_is_counted() -> None:
    decoder = guided('root ::= ("x" | "y") "one. two"', stop=["ne."])

    done, _ = run(decoder, b"x")

    assert (done.text, done.sampled, done.forced, done.finished) == (b"xo", 1, len("one."), True)
    assert done.tokens == [token(b"x"), token(b"o")]


def test_a_stop_text_in_the_forced_beginning_leaves_nothing_to_sample() -> None:
    decoder = guided('root ::= "one. two" ("x" | "y")', stop=["."])

    assert decoder.begin().ended
    assert (decoder.output.text, decoder.output.finished, decoder.output.sampled) == (b"one", True, 0)


def test_the_stop_text_that_is_completed_first_ends_the_text() -> None:
    done, _ = run(guided('root ::= ("x" | "y") "abcd"', stop=["abcd", "bc"]), b"x")

    assert done.text == b"xa"


@pytest.mark.parametrize(
    ("pieces", "stop", "before"),
    [
        pytest.param([b" bluish"], "ish", b" blu", id="within a token"),
        pytest.param([b" blue", b"\n"], "\n", b" blue", id="a token"),
        pytest.param([b" blue", b"a", b"b", b"c"], "abc", b" blue", id="over tokens"),
        pytest.param([b" red", b" bluish", b"!"], "ish!", b" red blu", id="from within a token on"),
        pytest.param([b"x"], "x", b"", id="at once"),
    ],
)
def test_the_segment_after_a_stop_text_continues_the_text_before_it(
    pieces: list[bytes], stop: str, before: bytes
) -> None:
    parts = [
        fixed(b"It is"),
        OutputSegment(free(stop=[stop])),
        fixed(b" or"),
        OutputSegment(guided('root ::= " red" | " blue"')),
    ]

    done, shown = run(SegmentedDecoder(parts, VOCABULARY), *pieces, b" red")

    assert shown == b"It is" + before + b" or"
    assert done.text == b"It is" + before + b" or red"
    assert VOCABULARY.decode(done.tokens) == done.text
    assert (done.sampled, done.finished) == (len(pieces) + 1, True)


def test_after_a_stop_text_the_next_sampled_segment_sees_the_text_before_it() -> None:
    parts = [fixed(b"It is"), OutputSegment(free(stop=["\n"])), OutputSegment(free(stop=["\n"]))]

    done, shown = run(SegmentedDecoder(parts, VOCABULARY), b"\n", b" red", b"\n")

    assert (done.text, shown) == (b"It is red", b"It is red")


def test_removed_stop_texts_stay_removed_after_a_segment_from_the_prompt() -> None:
    parts = [
        fixed(b"It is"),
        OutputSegment(free(stop=["ab"])),
        fixed(b" so", from_prompt=True),
        OutputSegment(free(stop=["cd"])),
        OutputSegment(free(most=1)),
    ]

    done, shown = run(SegmentedDecoder(parts, VOCABULARY), b"a", b"b", b"x", b"c", b"d", b"y")

    assert (done.text, shown) == (b"It is soxy", b" sox")


# Limits.


def test_a_grammar_cut_by_its_limit_ends_the_whole_text() -> None:
    parts = [OutputSegment(guided('root ::= ("x" | "y") " one two"', most=4)), fixed(b". The end.")]

    done, _ = run(SegmentedDecoder(parts, VOCABULARY), b"x")

    assert (done.text, done.finished) == (b"x on", False)


def test_a_free_segment_may_end_at_its_limit_and_the_text_continues() -> None:
    parts = [OutputSegment(free(most=2)), fixed(b". The end.")]

    done, _ = run(SegmentedDecoder(parts, VOCABULARY), b" red", b" blue")

    assert (done.text, done.finished) == (b" red blue. The end.", False)


# Decisions.


@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize(
    ("gbnf", "pieces", "decisions"),
    [
        ('root ::= " red" | " redder"', [b" re", b"d", b"d"], 1),
        ('root ::= " red" | " redder"', [b" redder"], 0),
        ('root ::= " red" | " blue"', [b" red"], 1),
        ("root ::= [a-z]+", [b"a", b"b", b"<end>"], 3),
    ],
)
def test_sampling_first_and_masking_first_count_the_same_decisions(
    gbnf: str, pieces: list[bytes], decisions: int, top_k: int
) -> None:
    done, _ = run(guided(gbnf, top_k=top_k), *pieces)

    assert done.decisions == decisions


# Encoding a continuation.


@pytest.mark.parametrize("text", [".", " .", ", it is", "  two", "é 👋", "\n"])
def test_a_fixed_text_is_unchanged_if_the_tokenizer_adds_a_space(text: str) -> None:
    vocabulary = vocabulary_of(SPACED)
    assert SPACED.tokens[SPACED(text)[0]].startswith(b" ")

    assert vocabulary.decode(vocabulary.encode(text.encode())) == text.encode()


def test_a_text_that_begins_within_a_character_is_encoded() -> None:
    rest = "👋".encode()[2:] + b" so"

    assert VOCABULARY.decode(VOCABULARY.encode(rest)) == rest


# With a cache.


SMALL = Pieces([b"a", b"b", b"c", b"ab", b"bc", b"abc"])
SEEDS = range(40)
STOPS = ("ca", "bb", "acb", "cc")


def segmented(seed: int) -> SegmentedDecoder:
    """Segments whose stop texts begin within tokens, end within them, or never occur."""
    vocabulary = vocabulary_of(SMALL)
    sampler = Sampler(SamplingParams(), seed=seed)

    def part(number: int) -> OutputSegment:
        return OutputSegment(
            TextDecoder(sampler, vocabulary, max_tokens=9, stop=[STOPS[(seed + number) % 4]]), seed % 3 == number
        )

    texts = [OutputSegment(vocabulary.encode(text)) for text in (b"ab", b"c")]
    return SegmentedDecoder([part(0), texts[0], part(1), part(2), texts[1], part(3)], vocabulary)


def by_hand(decoder: Decoder, cache: FakeContext) -> list[list[int]]:
    """The tokens that the model sees at each step, computed without a cache."""
    shown = [[*PROMPT, *decoder.begin().tokens]]
    while not (continuation := decoder.next(cache.logits_after(shown[-1]))).ended:
        shown.append([*(PROMPT if continuation.from_prompt else shown[-1]), *continuation.tokens])
    return shown


def fake_context(*, shares: bool, max_sequences: int) -> FakeContext:
    return FakeContext(cells=2000, max_sequences=max_sequences, vocabulary=len(SMALL.tokens), shares=shares)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_tokens_removed_by_a_stop_text_are_removed_from_the_cache(shares: bool, batched: bool) -> None:
    cache = fake_context(shares=shares, max_sequences=20 if batched else 2)
    scheduler = Scheduler(cache, slots=6, isolated=not batched)
    texts: dict[int, bytes] = {}

    def keep(seed: int, sequence: Sequence, end: Outcome) -> None:
        assert end is Outcome.COMPLETED
        texts[seed] = sequence.decoder.output.text

    for seed in SEEDS:
        scheduler.add(Sequence(segmented(seed), PROMPT, 60, lambda: False, partial(keep, seed), reusable=True))
    while scheduler.busy:
        scheduler.step()

    decoders = {seed: segmented(seed) for seed in SEEDS}
    shown = {seed: by_hand(decoder, cache) for seed, decoder in decoders.items()}
    assert texts == {seed: decoder.output.text for seed, decoder in decoders.items()}
    assert sum(after[: len(before)] != before for run in shown.values() for before, after in pairwise(run)) > 10
