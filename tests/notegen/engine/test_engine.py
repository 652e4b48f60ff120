"""The batching engine over the real GGUF: texts that don't depend on who else is there, and books that balance."""

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_notegen.engine import engine as engine_module
from dermnote_notegen.engine.context import ContextBroken, Row
from dermnote_notegen.engine.engine import Answer, BatchEngine
from dermnote_notegen.engine.grammar import MATCHERS_KEPT
from dermnote_notegen.engine.llama import LlamaContext, Shape, Weights
from dermnote_notegen.engine.model import (
    EngineBusy,
    EngineFailed,
    GrammarRefused,
    Origin,
    PromptEmpty,
    PromptTooLong,
    find_weights,
)
from dermnote_notegen.engine.server import create_engine
from tests.notegen.processes import wait_until

# llguidance's own code asks llama-cpp-python by an old name.
pytestmark = [pytest.mark.gguf, pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")]
CELLS = 4096
WAIT_S = 120
COLOURS, BORDERS = (" red", " blue", " brown"), (" round.", " ragged.")
ENDLESS: dict[str, Any] = {"prompt": "Letters:", "grammar": "root ::= [a-z ]+", "max_tokens": 900, "temperature": 1.0}
# Whoever reads it needs more items than llguidance has: a text without an end that leaves no choice.
TOO_MUCH = 'root ::= ("a" | "b") more\nmore ::= "x" more'


def never() -> bool:
    return False


def one_of(words: Sequence[str]) -> str:
    return " | ".join(f'"{word}"' for word in words)


@dataclass(frozen=True)
class Case:
    """A request as a value, and the texts that its grammars allow; None where it writes freely."""

    body: dict[str, Any]
    allowed: frozenset[str] | None = None

    def request(self, **more: Any) -> CompletionRequest:
        return CompletionRequest.model_validate(self.body | more)


def free(number: int, seed: int, *, tokens: int = 8, **more: Any) -> Case:
    body = {"prompt": f"Lesion {number} is on the", "max_tokens": tokens, "temperature": 1.0, "seed": seed}
    return Case(body | more)


def long(number: int, seed: int) -> Case:
    """A difference in one token's logits changes all that follows; no end token before: texts of one length."""
    return free(number, seed, tokens=40, top_k=40)


def guided(number: int, seed: int) -> Case:
    grammar = f'root ::= " It is" ({one_of(COLOURS)}) " and" ({one_of(BORDERS)})'
    body = {"prompt": f"Lesion {number}:", "max_tokens": 12, "grammar": grammar, "temperature": 1.5, "seed": seed}
    return Case(body, frozenset(f" It is{a} and{b}" for a, b in itertools.product(COLOURS, BORDERS)))


def pieces(number: int, seed: int) -> Case:
    segments = [
        {"text": " Its colour is"},
        {"grammar": f"root ::= {one_of(COLOURS)}", "max_tokens": 9},
        {"text": ", its border"},
        {"grammar": f"root ::= {one_of(BORDERS)}", "max_tokens": 9, "from_prompt": number % 2 == 0},
    ]
    body = {"prompt": f"Lesion {number}:", "segments": segments, "temperature": 1.5, "seed": seed}
    texts = (f" Its colour is{a}, its border{b}" for a, b in itertools.product(COLOURS, BORDERS))
    return Case(body, frozenset(texts))


CASES = [
    kind(number, seed)
    for number, (seed, kind) in enumerate(zip(range(64), itertools.cycle([long, guided, pieces, free])))
]


def text(answer: CompletionResponse) -> str:
    return answer.choices[0].text


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(find_weights("smollm2")[1])
    yield loaded
    loaded.close()


@contextmanager
def running(weights: Weights, **settings: Any) -> Iterator[BatchEngine]:
    """An engine of its own over the shared weights."""
    shape = Shape(cells=CELLS, lanes=64, threads=1)
    engine = BatchEngine(
        weights, shape, origin=Origin("smollm2", None), **{"slots": 8, "context_tokens": 1024} | settings
    )
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def engine(weights: Weights) -> Iterator[BatchEngine]:
    with running(weights) as made:
        yield made


def ask(engine: BatchEngine, request: CompletionRequest) -> CompletionResponse:
    return engine.submit(request, stop=never).result(WAIT_S)


def ask_anew(engine: BatchEngine, **body: Any) -> CompletionResponse:
    return ask(engine, CompletionRequest.model_validate(body))


def figure(engine: BatchEngine, name: str, **labels: str) -> float:
    return engine.registry.get_sample_value(f"dermnote_engine_{name}", labels) or 0.0


def wait_for_state(engine: BatchEngine, what: str, value: int) -> None:
    wait_until(lambda: figure(engine, "state", what=what) == value, timeout_s=WAIT_S, what=f"{value} {what}")


# The same text whatever the load.


@pytest.fixture(scope="module")
def alone(engine: BatchEngine) -> list[str]:
    """What each of the 64 requests writes when it is asked alone, with `deterministic`."""
    return [text(ask(engine, case.request(deterministic=True))) for case in CASES]


def test_deterministic_texts_are_the_same_in_one_batch(engine: BatchEngine, alone: list[str]) -> None:
    beside = [engine.submit(case.request(), stop=never) for case in CASES]
    answers = [engine.submit(case.request(deterministic=True), stop=never) for case in CASES]

    assert [text(answer.result(WAIT_S)) for answer in answers] == alone
    for case, answer in zip(CASES, beside, strict=True):
        assert case.allowed is None or text(answer.result(WAIT_S)) in case.allowed


def test_deterministic_texts_are_the_same_in_any_order_of_arrival(engine: BatchEngine, alone: list[str]) -> None:
    draw = random.Random(4)
    order = draw.sample(range(64), 64)
    answers: dict[int, Answer] = {}
    for number in order:
        if answers and draw.random() < 0.3:
            answers[draw.choice(list(answers))].result(WAIT_S)
        answers[number] = engine.submit(CASES[number].request(deterministic=True), stop=never)

    assert [text(answers[number].result(WAIT_S)) for number in range(64)] == alone


def test_deterministic_texts_are_the_same_when_others_are_cancelled(engine: BatchEngine, alone: list[str]) -> None:
    draw = random.Random(5)
    answers: dict[int, Answer] = {}
    others: list[tuple[Answer, threading.Event]] = []
    for number in draw.sample(range(64), 64):
        gone = threading.Event()
        other = draw.choice(CASES).request(seed=number + 100, deterministic=draw.random() < 0.3)
        others.append((engine.submit(other, stop=gone.is_set), gone))
        answers[number] = engine.submit(CASES[number].request(deterministic=True), stop=never)
        if draw.random() < 0.2:
            draw.choice(list(answers.values())).result(WAIT_S)
            for _, leaving in draw.sample(others, len(others) // 2):
                leaving.set()

    assert [text(answers[number].result(WAIT_S)) for number in range(64)] == alone
    for _, leaving in others:
        leaving.set()
    wait_until(lambda: all(other.done() for other, _ in others), timeout_s=WAIT_S, what="the others have ended")
    assert any(other.cancelled() for other, _ in others)


def test_deterministic_requests_go_apart_from_the_batch(engine: BatchEngine, alone: list[str]) -> None:
    wait_for_state(engine, "running", 0)
    before = (engine.count.rows, engine.count.steps)

    texts = [text(ask(engine, case.request(deterministic=True))) for case in CASES[:4]]

    assert texts == alone[:4]
    assert (engine.count.rows, engine.count.steps) == before


def test_without_deterministic_a_text_depends_on_the_batch_alone(
    weights: Weights, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Asked in the same order, one at a time, all batches are the same. In one batch a text may be another."""
    cases = [long(number, seed=number) for number in range(24)]
    with running(weights) as engine:
        apart = [text(ask(engine, case.request())) for case in cases]
    with running(weights) as engine:  # nothing of what the first one kept
        again = [text(ask(engine, case.request())) for case in cases[:8]]
    with running(weights) as engine:
        answers = [engine.submit(case.request(), stop=never) for case in cases]
        together = [text(answer.result(WAIT_S)) for answer in answers]

    share = sum(map(str.__eq__, apart, together)) / len(cases)
    record_testsuite_property("share_of_identical_texts_of_40_tokens", share)
    print(f"identical texts of 40 tokens without deterministic: {share:.0%}")
    assert again == apart[:8]
    assert len(set(apart)) == len(cases)


# Requests that end early, or can't be done.


def test_the_cache_is_empty_once_all_have_ended(weights: Weights) -> None:
    gone = threading.Event()
    with running(weights) as engine:
        cancelled = [engine.submit(case.request(seed=1000), stop=gone.is_set) for case in CASES[:24]]
        answers = [
            engine.submit(case.request(deterministic=i % 8 == 0), stop=never) for i, case in enumerate(CASES[:32])
        ]
        answers[5].result(WAIT_S)
        gone.set()
        wait_until(lambda: all(one.done() for one in [*answers, *cancelled]), timeout_s=WAIT_S, what="all have ended")
        engine.stop()

        scheduler, contexts = engine._scheduler, engine._contexts
        scheduler.forget()

        assert [context.used(lane) for context in contexts for lane in range(context.lanes) if context.used(lane)] == []
        assert len(contexts) == 2
        assert (scheduler.tree.held, scheduler.tree.lanes_used, scheduler.tree.idle) == (0, 0, 0)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_cancelled_request_ends_without_an_answer_and_its_slot_is_free(weights: Weights, deterministic: bool) -> None:
    gone = threading.Event()
    with running(weights, slots=1) as engine:
        endless = CompletionRequest.model_validate(ENDLESS | {"deterministic": deterministic})
        held = engine.submit(endless, stop=gone.is_set)
        behind = engine.submit(CASES[1].request(deterministic=deterministic), stop=never)
        gone.set()

        assert text(behind.result(WAIT_S)) in (CASES[1].allowed or ())
        assert held.cancelled()
        with pytest.raises(CancelledError):
            held.result(0)
        wait_for_state(engine, "running", 0)


def test_an_answer_that_its_own_client_cancels_hurts_no_other(engine: BatchEngine) -> None:
    assert engine.submit(CASES[0].request(), stop=never).cancel()

    assert text(ask(engine, CASES[1].request())) in (CASES[1].allowed or ())


def test_a_deadline_ends_a_request_in_the_middle_and_says_so(engine: BatchEngine) -> None:
    with TestClient(create_engine(engine)) as client:
        answer = client.post("/v1/completions", json=ENDLESS | {"deadline_s": 0.3})

    assert (answer.status_code, answer.json()["code"]) == (504, "deadline-exceeded")
    wait_for_state(engine, "running", 0)


def test_what_can_never_be_done_is_refused_at_once(engine: BatchEngine) -> None:
    def submit(**body: Any) -> Answer:
        return engine.submit(CompletionRequest.model_validate({"prompt": "A mole", **body}), stop=never)

    with pytest.raises(PromptTooLong):
        submit(prompt="word " * 1100)
    with pytest.raises(PromptTooLong):
        submit(max_tokens=1023)
    with pytest.raises(PromptEmpty):
        submit(prompt="\x04")
    with pytest.raises(GrammarRefused):
        submit(grammar="root ::= (")
    with pytest.raises(GrammarRefused):
        submit(segments=[{"text": " It"}, {"grammar": "root ::= ("}])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    "grammar", [TOO_MUCH, TOO_MUCH.replace('("a" | "b") ', "")], ids=["behind a choice", "at once"]
)
def test_a_grammar_that_turns_out_to_be_too_much_is_refused_and_hurts_no_other(
    engine: BatchEngine, grammar: str, deterministic: bool
) -> None:
    with pytest.raises(GrammarRefused):
        ask_anew(engine, prompt="A mole", grammar=grammar, deterministic=deterministic)

    assert text(ask(engine, CASES[1].request())) in (CASES[1].allowed or ())


@pytest.mark.parametrize("deterministic", [False, True])
def test_when_enough_wait_the_next_is_told_that_the_engine_is_busy(weights: Weights, deterministic: bool) -> None:
    gone = threading.Event()
    request = CompletionRequest.model_validate(ENDLESS | {"deterministic": deterministic})
    with running(weights, slots=1, most_waiting=2) as engine:
        first = engine.submit(request, stop=gone.is_set)
        wait_until(lambda: engine._waiting() == 0, timeout_s=WAIT_S, what="the first runs")
        waiting = [engine.submit(request, stop=gone.is_set) for _ in range(2)]

        with pytest.raises(EngineBusy):
            engine.submit(request, stop=never)

        gone.set()
        wait_until(lambda: all(map(Answer.done, [first, *waiting])), timeout_s=WAIT_S, what="all have ended")
        assert ask(engine, CASES[1].request())


def test_who_asks_an_engine_that_has_ended_is_told_at_once(weights: Weights) -> None:
    with running(weights) as engine:
        held = engine.submit(CompletionRequest.model_validate(ENDLESS), stop=never)
        engine.stop()

        with pytest.raises(EngineFailed):
            held.result(0)
        with pytest.raises(EngineFailed):
            engine.submit(CASES[0].request(), stop=never)
        assert not engine.alive


# What is decoded, and what is counted.


@pytest.mark.parametrize("deterministic", [False, True])
def test_segments_are_written_in_turn_and_forced_and_sampled_tokens_are_told_apart(
    engine: BatchEngine, weights: Weights, deterministic: bool
) -> None:
    fixed = [" The lesion is of type ", " and of grade ", " indeed."]
    a_or_b = {"grammar": 'root ::= "a" | "b"', "max_tokens": 3}
    segments = [{"text": fixed[0]}, a_or_b, {"text": fixed[1]}, a_or_b | {"from_prompt": True}, {"text": fixed[2]}]

    answer = ask_anew(engine, prompt="A mole:", segments=segments, temperature=1.0, deterministic=deterministic)

    assert text(answer) in {f"{fixed[0]}{x}{fixed[1]}{y}{fixed[2]}" for x in "ab" for y in "ab"}
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens == len(weights.encode("A mole:", begin=True))
    assert usage.forced_tokens == sum(len(weights.encode(piece, begin=False)) for piece in fixed)
    assert usage.completion_tokens - usage.forced_tokens == 2
    assert usage.decisions == 2


def test_a_segment_from_the_prompt_does_not_see_what_was_written_before(engine: BatchEngine) -> None:
    """Greedy, so that only what the model sees can make a difference."""
    words = {"grammar": 'root ::= " seven" | " zebra"', "max_tokens": 9}
    numbers = {"text": " one two three four five six"}

    def written(*segments: dict[str, Any]) -> str:
        return text(ask_anew(engine, prompt="My favourite animal is the", segments=list(segments), temperature=0))

    assert written(numbers, words).endswith(" seven")
    assert written(numbers, words | {"from_prompt": True}).endswith(" zebra")


def test_a_text_without_a_choice_is_answered_without_a_decode(engine: BatchEngine) -> None:
    fixed: list[dict[str, Any]] = [
        {"segments": [{"text": " one"}, {"text": " two", "from_prompt": True}]},
        {"segments": [{"text": " one"}, {"grammar": 'root ::= " two"'}]},
        {"grammar": 'root ::= " one two"'},
    ]
    for deterministic in (False, True):
        for body in fixed:
            before = engine.count.rows
            answer = ask_anew(engine, prompt="Count to two:", deterministic=deterministic, **body)
            assert (text(answer), answer.choices[0].finish_reason) == (" one two", "stop")
            assert answer.usage.completion_tokens == answer.usage.forced_tokens
            assert engine.count.rows == before


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_a_grammar_fixes_keeps_to_the_limit(engine: BatchEngine, deterministic: bool) -> None:
    grammar = 'root ::= " one two three four five six"'

    answer = ask_anew(engine, prompt="Count:", max_tokens=4, grammar=grammar, deterministic=deterministic)

    assert text(answer) == " one two three four"
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (4, "length")


def test_a_prompt_that_was_asked_before_is_not_decoded_again(engine: BatchEngine) -> None:
    body: dict[str, Any] = {"prompt": "A prompt that nobody else has: the skin", "max_tokens": 3}

    first, again = ask_anew(engine, **body, seed=1), ask_anew(engine, **body, seed=2)

    assert first.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens_details.cached_tokens < first.usage.prompt_tokens - 1
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_the_beginning_of_a_text_that_a_grammar_gave_before_is_not_decoded_again(
    engine: BatchEngine, weights: Weights
) -> None:
    prompt, begun = "Another prompt of its own:", " The lesion is firm, and its type is "
    first = f'root ::= "{begun}" ("a" | "b")'
    other = f'root ::= "{begun}" ("a" | "b") ", the other"'

    def decoded(grammar: str, **more: Any) -> int:
        before = engine.count.rows
        ask_anew(engine, prompt=prompt, grammar=grammar, temperature=1.0, **more)
        return engine.count.rows - before

    whole = len(weights.encode(prompt, begin=True)) + len(weights.encode(begun, begin=False))
    assert decoded(first) >= whole - 2  # other requests here may have begun alike
    assert decoded(first, seed=9) == 0
    assert decoded(other, seed=9) == 0


def test_the_metrics_tell_tokens_batches_cache_and_waiting(engine: BatchEngine) -> None:
    ask(engine, CASES[1].request())
    wait_for_state(engine, "running", 0)

    with TestClient(create_engine(engine)) as client:
        told = client.get("/metrics").text

    for kind in ("prompt", "cached", "forced", "sampled", "decoded"):
        assert f'dermnote_engine_tokens_total{{kind="{kind}"}}' in told
    for name in ("batch_tokens", "queue_seconds", "first_token_seconds"):
        assert f"dermnote_engine_{name}_bucket" in told
        assert figure(engine, f"{name}_count") > 0
    assert figure(engine, "state", what="slots") == 8
    assert figure(engine, "state", what="cells") == CELLS
    assert 0 < figure(engine, "state", what="cells_held") <= CELLS
    assert figure(engine, "state", what="lanes_used") > 0
    assert figure(engine, "tokens_total", kind="decoded") == engine.count.rows


# Stop texts, and what follows them.


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("segmented", [False, True])
def test_a_stop_text_ends_what_is_written_under_a_grammar(
    engine: BatchEngine, segmented: bool, deterministic: bool
) -> None:
    written = {"grammar": 'root ::= " one" (" two" | " three") "\\n" [a-z\\n]+', "stop": ["\n"], "max_tokens": 30}
    body = {"segments": [written, {"text": "."}]} if segmented else written

    answer = ask_anew(engine, prompt="Count:", deterministic=deterministic, **body)

    end = "." if segmented else ""
    assert text(answer) in {f" one two{end}", f" one three{end}"}
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_model_goes_on_behind_a_stop_text_as_if_only_what_came_before_it_had_been_given(
    engine: BatchEngine, deterministic: bool
) -> None:
    """The stop text's first token is decoded before its second one. Greedy, so that only what is seen counts."""
    stops = [" stops here", " stops there", " halts here", " halts there"]
    stopped = {"grammar": 'root ::= " animal" (" stops" | " halts") (" here" | " there")', "stop": stops}
    writes = {"grammar": "root ::= [a-z ]+", "max_tokens": 12}

    def written(*segments: dict[str, Any]) -> str:
        body: dict[str, Any] = {"prompt": "A story.", "temperature": 0, "deterministic": deterministic}
        return text(ask_anew(engine, segments=list(segments), **body))

    given = written({"text": " My animal"}, writes)
    assert given.startswith(" My animal")
    assert written({"text": " My"}, stopped, writes) == given


def test_a_part_that_stops_at_once_is_followed_by_the_next(engine: BatchEngine) -> None:
    at_once = {"grammar": 'root ::= "x" | "y"', "stop": ["x", "y"]}
    segments = [at_once, {"grammar": 'root ::= "a" | "b"'}]

    for deterministic in (False, True):
        answer = ask_anew(engine, prompt="A letter:", segments=segments, deterministic=deterministic)
        assert text(answer) in ("a", "b")


def test_a_fixed_text_that_the_model_has_no_tokens_for_is_refused(engine: BatchEngine) -> None:
    with pytest.raises(PromptEmpty):
        ask_anew(engine, prompt="A mole", segments=[{"text": " It\x04 is"}])


# A context that breaks, and memory.


class Breaking(LlamaContext):
    """Loses its cache at the decodes that `broken_at` numbers."""

    broken_at: Sequence[int] = ()

    def __init__(self, *settings: Any, **more: Any) -> None:
        super().__init__(*settings, **more)
        self.decodes = 0

    def decode(self, rows: Sequence[Row]) -> None:
        self.decodes += 1
        if self.decodes in self.broken_at:
            raise ContextBroken
        super().decode(rows)


def test_when_the_context_breaks_it_is_made_anew_and_no_request_is_lost(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy and of one mind, so that the batch's shape can't change a text."""
    monkeypatch.setattr(engine_module, "LlamaContext", Breaking)
    monkeypatch.setattr(Breaking, "broken_at", (2, 4))
    grammar = 'root ::= " two" (" three" | " zebra") (" four" | " banana") (" five" | " carpet")'
    bodies = [{"prompt": f"Counting, line {n}: one", "grammar": grammar, "temperature": 0} for n in range(12)]
    with running(weights) as engine:
        answers = [engine.submit(CompletionRequest.model_validate(body), stop=never) for body in bodies]

        assert [text(answer.result(WAIT_S)) for answer in answers] == [" two three four five"] * 12
        assert engine.count.rebuilds == 2
        assert engine.alive


def test_a_deterministic_request_that_the_context_breaks_under_can_be_asked_again(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, alone: list[str]
) -> None:
    monkeypatch.setattr(engine_module, "LlamaContext", Breaking)
    monkeypatch.setattr(Breaking, "broken_at", (2,))
    request = CASES[0].request(deterministic=True)
    with running(weights) as engine:
        with pytest.raises(EngineFailed):
            ask(engine, request)

        assert text(ask(engine, request)) == alone[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_context_that_can_not_be_mended_ends_the_engine_and_all_are_told(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LlamaContext", Breaking)
    monkeypatch.setattr(Breaking, "broken_at", (1, 2))
    with running(weights) as engine:
        answers = [engine.submit(case.request(), stop=never) for case in CASES[:12]]

        for answer in answers:
            with pytest.raises(EngineFailed):
                answer.result(WAIT_S)
        wait_until(lambda: not engine.alive, timeout_s=WAIT_S, what="the engine has ended")


def test_hundreds_of_requests_leave_memory_flat(
    weights: Weights, engine: BatchEngine, record_testsuite_property: Callable[[str, object], None]
) -> None:
    def round_of(numbers: range, *, prompts: bool = True) -> int:
        """Ask so many requests, each with a grammar, and a prompt, of its own; returns the bytes in memory after."""
        requests = [
            CompletionRequest(
                prompt=f"Say of case {n if prompts else 0}:",
                grammar=f'root ::= ({one_of(COLOURS)}) ({one_of(BORDERS)}) " Case {n}."',
                max_tokens=20,
                temperature=1.5,
                seed=n,
            )
            for n in numbers
        ]
        for answer in [engine.submit(request, stop=never) for request in requests]:
            answer.result(WAIT_S)
        return int(psutil.Process().memory_info().rss)

    # Fills what the engine keeps: logits of 256 places, a quarter of the cells, grammars.
    round_of(range(120))
    round_of(range(1000, 1000 + MATCHERS_KEPT), prompts=False)

    sizes = [round_of(range(start, start + 100)) for start in (2000, 3000, 4000)]

    record_testsuite_property("rss_mib", [size / 2**20 for size in sizes])
    assert len(weights.vocabulary._matchers) == MATCHERS_KEPT
    assert sizes[-1] - sizes[0] < 8 * 2**20, sizes
