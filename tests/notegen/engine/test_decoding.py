"""What programs write, token by token, with logits of the test's own: stop texts, limits, what goes on behind them."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

llguidance = pytest.importorskip("llguidance")

from dermnote_notegen.engine.decoding import (  # noqa: E402
    Constrained,
    Free,
    Part,
    Program,
    Segmented,
    Written,
    tokens_of,
)
from dermnote_notegen.engine.deterministic import Alone  # noqa: E402  needs llguidance
from dermnote_notegen.engine.fake_context import PretendContext  # noqa: E402
from dermnote_notegen.engine.grammar import Grammar, Vocabulary  # noqa: E402
from dermnote_notegen.engine.sampling import Sampler, Sampling  # noqa: E402
from dermnote_notegen.engine.scheduler import Scheduler  # noqa: E402
from dermnote_notegen.engine.sequence import End, Job  # noqa: E402

ALL_BYTES = [bytes([code]) for code in range(1, 256)]
PROMPT = [1, 2, 3]


class Pieces:
    """A tokenizer that takes the longest piece that fits; `spaced`: it puts a space in front, as SentencePiece does."""

    eos_token_id = 0
    bos_token_id = None
    special_token_ids = (0,)

    def __init__(self, pieces: Sequence[bytes], *, spaced: bool = False) -> None:
        self.tokens = [b"<end>", *pieces]
        self._spaced = spaced

    def __call__(self, text: bytes | str) -> list[int]:
        rest = text.encode() if isinstance(text, str) else text
        rest = b" " + rest if self._spaced else rest
        found = []
        while rest:
            fits = [token for token, piece in enumerate(self.tokens) if token and rest.startswith(piece)]
            found.append(max(fits, key=lambda token: len(self.tokens[token])))
            rest = rest[len(self.tokens[found[-1]]) :]
        return found


def vocabulary_of(pieces: Pieces) -> Vocabulary:
    return Vocabulary(llguidance.LLTokenizer(llguidance.TokenizerWrapper(pieces)))


PIECES = Pieces([*ALL_BYTES, b" red", b" redder", b" blue", b" bluish", b" re", b"ish!"])
VOCABULARY = vocabulary_of(PIECES)
SPACED = Pieces([*ALL_BYTES, b" .", b", it", b"  "], spaced=True)


def token(piece: bytes) -> int:
    return PIECES.tokens.index(piece)


def greedy() -> Sampler:
    return Sampler(Sampling(temperature=0), seed=0)


def free(*, most: int = 20, stop: Sequence[str] = ()) -> Free:
    return Free(greedy(), VOCABULARY, max_tokens=most, stop=stop)


def guided(gbnf: str, *, most: int = 40, stop: Sequence[str] = (), top_k: int = 0) -> Constrained:
    sampler = Sampler(Sampling(temperature=0, top_k=top_k), seed=0)
    return Constrained(Grammar(gbnf, VOCABULARY), sampler, VOCABULARY, max_tokens=most, stop=stop)


def fixed(text: bytes, *, from_prompt: bool = False) -> Part:
    return Part(tokens_of(text, VOCABULARY), from_prompt=from_prompt)


def run(program: Program, *wanted: bytes) -> tuple[Written, bytes]:
    """(what is written by a model that wants these pieces in turn, the text that it was shown at last)."""
    path: list[int] = []
    move = program.begin()
    for piece in wanted:
        path = [*([] if move.from_prompt else path), *move.tokens]
        logits = np.zeros(len(PIECES.tokens), dtype=np.float32)
        logits[token(piece)] = 9.0
        move = program.next(logits)
        assert move.ended or move.tokens or move.from_prompt, "nothing to decode"
        if move.ended:
            break
    assert move.ended
    return program.written, b"".join(map(VOCABULARY.text, path))


# Stop texts.


@pytest.mark.parametrize("top_k", [0, 5])
def test_a_stop_text_ends_what_a_grammar_would_go_on_with(top_k: int) -> None:
    done, _ = run(guided("root ::= [a-z\n]+", stop=["\n"], top_k=top_k), b"a", b"b", b"\n", b"c")

    assert (done.text, done.sampled, done.finished) == (b"ab", 3, True)


def test_a_stop_text_that_the_grammar_fixes_ends_the_text_too_and_what_is_behind_it_is_not_counted() -> None:
    program = guided('root ::= ("x" | "y") "one. two"', stop=["ne."])

    done, _ = run(program, b"x")

    assert (done.text, done.sampled, done.forced, done.finished) == (b"xo", 1, len("one."), True)
    assert done.tokens == [token(b"x"), token(b"o")]


def test_a_stop_text_in_what_is_fixed_at_the_beginning_leaves_nothing_to_be_sampled() -> None:
    program = guided('root ::= "one. two" ("x" | "y")', stop=["."])

    assert program.begin().ended
    assert (program.written.text, program.written.finished, program.written.sampled) == (b"one", True, 0)


def test_of_two_stop_texts_the_one_that_is_complete_first_ends_the_text() -> None:
    done, _ = run(guided('root ::= ("x" | "y") "abcd"', stop=["abcd", "bc"]), b"x")

    assert done.text == b"xa"


@pytest.mark.parametrize(
    ("wanted", "stop", "before"),
    [
        pytest.param([b" bluish"], "ish", b" blu", id="within a token"),
        pytest.param([b" blue", b"\n"], "\n", b" blue", id="a token"),
        pytest.param([b" blue", b"a", b"b", b"c"], "abc", b" blue", id="over tokens"),
        pytest.param([b" red", b" bluish", b"!"], "ish!", b" red blu", id="from within a token on"),
        pytest.param([b"x"], "x", b"", id="at once"),
    ],
)
def test_what_follows_a_stop_text_follows_the_text_before_it_and_nothing_else(
    wanted: list[bytes], stop: str, before: bytes
) -> None:
    parts = [fixed(b"It is"), Part(free(stop=[stop])), fixed(b" or"), Part(guided('root ::= " red" | " blue"'))]

    done, shown = run(Segmented(parts, VOCABULARY), *wanted, b" red")

    assert shown == b"It is" + before + b" or"
    assert done.text == b"It is" + before + b" or red"
    assert b"".join(map(VOCABULARY.text, done.tokens)) == done.text
    assert (done.sampled, done.finished) == (len(wanted) + 1, True)


def test_behind_a_stop_text_without_fixed_text_the_next_part_is_shown_the_text_before_it() -> None:
    parts = [fixed(b"It is"), Part(free(stop=["\n"])), Part(free(stop=["\n"]))]

    done, shown = run(Segmented(parts, VOCABULARY), b"\n", b" red", b"\n")

    assert (done.text, shown) == (b"It is red", b"It is red")


def test_what_was_taken_back_stays_so_behind_a_part_that_follows_the_prompt() -> None:
    parts = [
        fixed(b"It is"),
        Part(free(stop=["ab"])),
        fixed(b" so", from_prompt=True),
        Part(free(stop=["cd"])),
        Part(free(most=1)),
    ]

    done, shown = run(Segmented(parts, VOCABULARY), b"a", b"b", b"x", b"c", b"d", b"y")

    assert (done.text, shown) == (b"It is soxy", b" sox")


# Limits.


def test_a_grammar_that_its_limit_cuts_ends_the_whole_text() -> None:
    parts = [Part(guided('root ::= ("x" | "y") " one two"', most=4)), fixed(b". The end.")]

    done, _ = run(Segmented(parts, VOCABULARY), b"x")

    assert (done.text, done.finished) == (b"x on", False)


def test_a_free_part_may_end_at_its_limit_and_the_text_goes_on() -> None:
    parts = [Part(free(most=2)), fixed(b". The end.")]

    done, _ = run(Segmented(parts, VOCABULARY), b" red", b" blue")

    assert (done.text, done.finished) == (b" red blue. The end.", False)


# What was a choice.


@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize(
    ("gbnf", "wanted", "decisions"),
    [
        ('root ::= " red" | " redder"', [b" re", b"d", b"d"], 1),
        ('root ::= " red" | " redder"', [b" redder"], 0),
        ('root ::= " red" | " blue"', [b" red"], 1),
        ("root ::= [a-z]+", [b"a", b"b", b"<end>"], 3),
    ],
)
def test_a_draw_that_is_taken_counts_as_one_from_a_mask_does(
    gbnf: str, wanted: list[bytes], decisions: int, top_k: int
) -> None:
    done, _ = run(guided(gbnf, top_k=top_k), *wanted)

    assert done.decisions == decisions


# Tokens of a text that follows others.


@pytest.mark.parametrize("text", [".", " .", ", it is", "  two", "é 👋", "\n"])
def test_a_fixed_text_stays_as_it_is_where_the_tokenizer_puts_a_space_in_front(text: str) -> None:
    vocabulary = vocabulary_of(SPACED)
    assert SPACED.tokens[SPACED(text)[0]].startswith(b" ")

    assert b"".join(map(vocabulary.text, tokens_of(text.encode(), vocabulary))) == text.encode()


def test_half_a_character_in_front_is_put_into_tokens_too() -> None:
    rest = "👋".encode()[2:] + b" so"

    assert b"".join(map(VOCABULARY.text, tokens_of(rest, VOCABULARY))) == rest


# Over a cache.


SMALL = Pieces([b"a", b"b", b"c", b"ab", b"bc", b"abc"])
SEEDS = range(40)
STOPS = ("ca", "bb", "acb", "cc")


def segmented(seed: int) -> Segmented:
    """Parts whose stop texts begin within tokens, end within them, or are never written."""
    vocabulary = vocabulary_of(SMALL)
    sampler = Sampler(Sampling(), seed=seed)

    def part(number: int) -> Part:
        return Part(Free(sampler, vocabulary, max_tokens=9, stop=[STOPS[(seed + number) % 4]]), seed % 3 == number)

    texts = [Part(tokens_of(text, vocabulary)) for text in (b"ab", b"c")]
    return Segmented([part(0), texts[0], part(1), part(2), texts[1], part(3)], vocabulary)


def by_hand(program: Program, pool: PretendContext) -> list[list[int]]:
    """What it is shown at each move, written without a cache."""
    shown = [[*PROMPT, *program.begin().tokens]]
    while not (move := program.next(pool.logits_after(shown[-1]))).ended:
        shown.append([*(PROMPT if move.from_prompt else shown[-1]), *move.tokens])
    return shown


def pretended(*, shares: bool, lanes: int) -> PretendContext:
    return PretendContext(cells=2000, lanes=lanes, vocabulary=len(SMALL.tokens), shares=shares)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_tokens_that_a_stop_text_took_back_are_taken_back_in_the_cache_too(shares: bool, batched: bool) -> None:
    pool = pretended(shares=shares, lanes=20 if batched else 1)
    queue: Scheduler | Alone = Scheduler(pool, slots=6) if batched else Alone(pool)
    texts: dict[int, bytes] = {}

    def keep(seed: int, job: Job, end: End) -> None:
        assert end is End.WRITTEN
        texts[seed] = job.program.written.text

    for seed in SEEDS:
        queue.add(Job(segmented(seed), PROMPT, 60, lambda: False, partial(keep, seed), shares_text=True))
    while queue.busy:
        queue.step()

    programs = {seed: segmented(seed) for seed in SEEDS}
    shown = {seed: by_hand(program, pool) for seed, program in programs.items()}
    assert texts == {seed: program.written.text for seed, program in programs.items()}
    assert sum(after[: len(before)] != before for run in shown.values() for before, after in pairwise(run)) > 10
