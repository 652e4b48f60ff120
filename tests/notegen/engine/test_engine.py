"""The engine with the real GGUF: texts, errors, token counts, caches and memory."""

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
from dermnote_notegen.engine.engine import LLMEngine
from dermnote_notegen.engine.llama import ContextConfig, LlamaContext, Weights
from dermnote_notegen.engine.model import (
    BatchToken,
    CompletionFuture,
    ContextBroken,
    EngineBusy,
    EngineFailed,
    GrammarError,
    ModelInfo,
    PromptEmpty,
    PromptTooLong,
    find_weights,
)
from dermnote_notegen.engine.sampling import MATCHER_CACHE_SIZE
from dermnote_notegen.engine.server import create_engine
from tests.effort import amount
from tests.notegen.processes import wait_until

# llguidance uses a deprecated name of llama-cpp-python's API.
pytestmark = [pytest.mark.gguf, pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")]
CELLS = 4096
WAIT_S = 120
COLOURS, BORDERS = (" red", " blue", " brown"), (" round.", " ragged.")
ENDLESS: dict[str, Any] = {"prompt": "Letters:", "grammar": "root ::= [a-z ]+", "max_tokens": 900, "temperature": 1.0}
# Parsing it needs more items than llguidance allows: an endless text without a choice.
TOO_MUCH = 'root ::= ("a" | "b") more\nmore ::= "x" more'


def never() -> bool:
    return False


def one_of(words: Sequence[str]) -> str:
    return " | ".join(f'"{word}"' for word in words)


@dataclass(frozen=True)
class Case:
    """A request body, and the texts that its grammars allow; None without a grammar."""

    body: dict[str, Any]
    allowed: frozenset[str] | None = None

    def request(self, **more: Any) -> CompletionRequest:
        return CompletionRequest.model_validate(self.body | more)


def free(number: int, seed: int, *, tokens: int = 8, **more: Any) -> Case:
    body = {"prompt": f"Lesion {number} is on the", "max_tokens": tokens, "temperature": 1.0, "seed": seed}
    return Case(body | more)


def long(number: int, seed: int) -> Case:
    """Texts of equal length in which a difference in one token's logits changes everything after it."""
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


REQUESTS = amount(24, 64)
CASES = [
    kind(number, seed)
    for number, (seed, kind) in enumerate(zip(range(REQUESTS), itertools.cycle([long, guided, pieces, free])))
]


def text(answer: CompletionResponse) -> str:
    return answer.choices[0].text


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(find_weights("smollm2")[1])
    yield loaded
    loaded.close()


@contextmanager
def running(weights: Weights, **settings: Any) -> Iterator[LLMEngine]:
    """A new engine over the shared weights."""
    shape = ContextConfig(cells=CELLS, max_sequences=64, threads=1)
    engine = LLMEngine(
        weights, shape, model_info=ModelInfo("smollm2", None), **{"slots": 8, "context_tokens": 1024} | settings
    )
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def engine(weights: Weights) -> Iterator[LLMEngine]:
    with running(weights) as made:
        yield made


def submit_and_wait(engine: LLMEngine, request: CompletionRequest) -> CompletionResponse:
    return engine.submit(request, cancelled=never).result(WAIT_S)


def complete(engine: LLMEngine, **body: Any) -> CompletionResponse:
    return submit_and_wait(engine, CompletionRequest.model_validate(body))


def metric(engine: LLMEngine, name: str, **labels: str) -> float:
    return engine.registry.get_sample_value(f"dermnote_engine_{name}", labels) or 0.0


def wait_for_state(engine: LLMEngine, what: str, value: int) -> None:
    wait_until(lambda: metric(engine, "state", what=what) == value, timeout_s=WAIT_S, what=f"{value} {what}")


# Texts under load.


@pytest.fixture(scope="module")
def alone(engine: LLMEngine) -> list[str]:
    """The deterministic text of each request, run alone."""
    return [text(submit_and_wait(engine, case.request(deterministic=True))) for case in CASES]


def test_deterministic_texts_do_not_depend_on_concurrent_requests(engine: LLMEngine, alone: list[str]) -> None:
    concurrent = [engine.submit(case.request(), cancelled=never) for case in CASES]
    answers = [engine.submit(case.request(deterministic=True), cancelled=never) for case in CASES]

    assert [text(answer.result(WAIT_S)) for answer in answers] == alone
    for case, answer in zip(CASES, concurrent, strict=True):
        assert case.allowed is None or text(answer.result(WAIT_S)) in case.allowed


def test_deterministic_texts_do_not_depend_on_the_order_of_arrival(engine: LLMEngine, alone: list[str]) -> None:
    draw = random.Random(4)
    order = draw.sample(range(REQUESTS), REQUESTS)
    answers: dict[int, CompletionFuture] = {}
    for number in order:
        if answers and draw.random() < 0.3:
            answers[draw.choice(list(answers))].result(WAIT_S)
        answers[number] = engine.submit(CASES[number].request(deterministic=True), cancelled=never)

    assert [text(answers[number].result(WAIT_S)) for number in range(REQUESTS)] == alone


def test_deterministic_texts_do_not_depend_on_cancelled_requests(engine: LLMEngine, alone: list[str]) -> None:
    draw = random.Random(5)
    answers: dict[int, CompletionFuture] = {}
    others: list[tuple[CompletionFuture, threading.Event]] = []
    for number in draw.sample(range(REQUESTS), REQUESTS):
        gone = threading.Event()
        other = draw.choice(CASES).request(seed=number + 100, deterministic=draw.random() < 0.3)
        others.append((engine.submit(other, cancelled=gone.is_set), gone))
        answers[number] = engine.submit(CASES[number].request(deterministic=True), cancelled=never)
        if draw.random() < 0.2:
            draw.choice(list(answers.values())).result(WAIT_S)
            for _, leaving in draw.sample(others, len(others) // 2):
                leaving.set()

    assert [text(answers[number].result(WAIT_S)) for number in range(REQUESTS)] == alone
    for _, leaving in others:
        leaving.set()
    wait_until(lambda: all(other.done() for other, _ in others), timeout_s=WAIT_S, what="the others have ended")
    assert any(other.cancelled() for other, _ in others)


def test_deterministic_requests_are_not_batched(engine: LLMEngine, alone: list[str]) -> None:
    wait_for_state(engine, "running", 0)
    before = (engine.stats.decoded_tokens, engine.stats.steps)

    texts = [text(submit_and_wait(engine, case.request(deterministic=True))) for case in CASES[:4]]

    assert texts == alone[:4]
    assert (engine.stats.decoded_tokens, engine.stats.steps) == before


def test_equal_batches_give_equal_texts_even_without_deterministic(
    weights: Weights, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Requests sent one at a time, in the same order, form the same batches. In a shared batch a text may differ."""
    cases = [long(number, seed=number) for number in range(amount(12, 24))]
    with running(weights) as engine:
        apart = [text(submit_and_wait(engine, case.request())) for case in cases]
    with running(weights) as engine:  # with an empty cache
        again = [text(submit_and_wait(engine, case.request())) for case in cases[:8]]
    with running(weights) as engine:
        answers = [engine.submit(case.request(), cancelled=never) for case in cases]
        together = [text(answer.result(WAIT_S)) for answer in answers]

    share = sum(map(str.__eq__, apart, together)) / len(cases)
    record_testsuite_property("share_of_identical_texts_of_40_tokens", share)
    print(f"identical texts of 40 tokens without `deterministic`: {share:.0%}")
    assert again == apart[:8]
    assert len(set(apart)) == len(cases)


# Cancelled and impossible requests.


def test_the_caches_are_empty_after_the_last_request(weights: Weights) -> None:
    gone = threading.Event()
    with running(weights) as engine:
        cancelled = [engine.submit(case.request(seed=1000), cancelled=gone.is_set) for case in CASES[:24]]
        answers = [
            engine.submit(case.request(deterministic=i % 8 == 0), cancelled=never) for i, case in enumerate(CASES[:32])
        ]
        answers[5].result(WAIT_S)
        gone.set()
        wait_until(lambda: all(one.done() for one in [*answers, *cancelled]), timeout_s=WAIT_S, what="all have ended")
        engine.stop()

        scheduler, contexts = engine._scheduler, [engine._context, engine._isolated_context]
        scheduler.cache.clear()

        assert all(context is not None for context in contexts)
        lengths = [context.length(seq_id) for context in contexts if context for seq_id in range(context.max_sequences)]
        assert not any(lengths)
        assert (scheduler.cache.cells_held, scheduler.cache.sequences_used, scheduler.cache.idle_branches) == (0, 0, 0)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_cancelled_request_frees_its_slot(weights: Weights, deterministic: bool) -> None:
    gone = threading.Event()
    with running(weights, slots=1) as engine:
        endless = CompletionRequest.model_validate(ENDLESS | {"deterministic": deterministic})
        held = engine.submit(endless, cancelled=gone.is_set)
        behind = engine.submit(CASES[1].request(deterministic=deterministic), cancelled=never)
        gone.set()

        assert text(behind.result(WAIT_S)) in (CASES[1].allowed or ())
        assert held.cancelled()
        with pytest.raises(CancelledError):
            held.result(0)
        wait_for_state(engine, "running", 0)


def test_a_cancelled_future_does_not_affect_other_requests(engine: LLMEngine) -> None:
    assert engine.submit(CASES[0].request(), cancelled=never).cancel()

    assert text(submit_and_wait(engine, CASES[1].request())) in (CASES[1].allowed or ())


def test_a_deadline_ends_a_running_request_with_504(engine: LLMEngine) -> None:
    with TestClient(create_engine(engine)) as client:
        answer = client.post("/v1/completions", json=ENDLESS | {"deadline_s": 0.3})

    assert (answer.status_code, answer.json()["code"]) == (504, "deadline-exceeded")
    wait_for_state(engine, "running", 0)


def test_impossible_requests_are_rejected_at_once(engine: LLMEngine) -> None:
    def submit(**body: Any) -> CompletionFuture:
        return engine.submit(CompletionRequest.model_validate({"prompt": "A mole", **body}), cancelled=never)

    with pytest.raises(PromptTooLong):
        submit(prompt="word " * 1100)
    with pytest.raises(PromptTooLong):
        submit(max_tokens=1023)
    with pytest.raises(PromptEmpty):
        submit(prompt="\x04")
    with pytest.raises(GrammarError):
        submit(grammar="root ::= (")
    with pytest.raises(GrammarError):
        submit(segments=[{"text": " It"}, {"grammar": "root ::= ("}])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    "grammar", [TOO_MUCH, TOO_MUCH.replace('("a" | "b") ', "")], ids=["behind a choice", "at once"]
)
def test_a_grammar_beyond_the_parsers_limits_is_rejected_without_affecting_others(
    engine: LLMEngine, grammar: str, deterministic: bool
) -> None:
    with pytest.raises(GrammarError):
        complete(engine, prompt="A mole", grammar=grammar, deterministic=deterministic)

    assert text(submit_and_wait(engine, CASES[1].request())) in (CASES[1].allowed or ())


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_full_queue_rejects_further_requests(weights: Weights, deterministic: bool) -> None:
    gone = threading.Event()
    request = CompletionRequest.model_validate(ENDLESS | {"deterministic": deterministic})
    with running(weights, slots=1, max_waiting=2) as engine:
        first = engine.submit(request, cancelled=gone.is_set)
        wait_until(lambda: engine._waiting() == 0, timeout_s=WAIT_S, what="the first runs")
        waiting = [engine.submit(request, cancelled=gone.is_set) for _ in range(2)]

        with pytest.raises(EngineBusy):
            engine.submit(request, cancelled=never)

        gone.set()
        wait_until(lambda: all(map(CompletionFuture.done, [first, *waiting])), timeout_s=WAIT_S, what="all have ended")
        assert submit_and_wait(engine, CASES[1].request())


def test_a_stopped_engine_fails_running_and_new_requests(weights: Weights) -> None:
    with running(weights) as engine:
        held = engine.submit(CompletionRequest.model_validate(ENDLESS), cancelled=never)
        engine.stop()

        with pytest.raises(EngineFailed):
            held.result(0)
        with pytest.raises(EngineFailed):
            engine.submit(CASES[0].request(), cancelled=never)
        assert not engine.alive


# Decoded and counted tokens.


@pytest.mark.parametrize("deterministic", [False, True])
def test_segments_are_generated_in_order_with_forced_and_sampled_tokens_counted(
    engine: LLMEngine, weights: Weights, deterministic: bool
) -> None:
    fixed = [" The lesion is of type ", " and of grade ", " indeed."]
    a_or_b = {"grammar": 'root ::= "a" | "b"', "max_tokens": 3}
    segments = [{"text": fixed[0]}, a_or_b, {"text": fixed[1]}, a_or_b | {"from_prompt": True}, {"text": fixed[2]}]

    answer = complete(engine, prompt="A mole:", segments=segments, temperature=1.0, deterministic=deterministic)

    assert text(answer) in {f"{fixed[0]}{x}{fixed[1]}{y}{fixed[2]}" for x in "ab" for y in "ab"}
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens == len(weights.encode("A mole:", begin=True))
    assert usage.forced_tokens == sum(len(weights.encode(piece, begin=False)) for piece in fixed)
    assert usage.completion_tokens - usage.forced_tokens == 2
    assert usage.decisions == 2


def test_a_segment_from_the_prompt_does_not_see_earlier_segments(engine: LLMEngine) -> None:
    """Greedy, so that texts differ only if the model sees different tokens."""
    words = {"grammar": 'root ::= " seven" | " zebra"', "max_tokens": 9}
    numbers = {"text": " one two three four five six"}

    def written(*segments: dict[str, Any]) -> str:
        return text(complete(engine, prompt="My favourite animal is the", segments=list(segments), temperature=0))

    assert written(numbers, words).endswith(" seven")
    assert written(numbers, words | {"from_prompt": True}).endswith(" zebra")


def test_a_text_without_a_choice_needs_no_decode(engine: LLMEngine) -> None:
    fixed: list[dict[str, Any]] = [
        {"segments": [{"text": " one"}, {"text": " two", "from_prompt": True}]},
        {"segments": [{"text": " one"}, {"grammar": 'root ::= " two"'}]},
        {"grammar": 'root ::= " one two"'},
    ]
    for deterministic in (False, True):
        for body in fixed:
            before = engine.stats.decoded_tokens
            answer = complete(engine, prompt="Count to two:", deterministic=deterministic, **body)
            assert (text(answer), answer.choices[0].finish_reason) == (" one two", "stop")
            assert answer.usage.completion_tokens == answer.usage.forced_tokens
            assert engine.stats.decoded_tokens == before


@pytest.mark.parametrize("deterministic", [False, True])
def test_forced_tokens_respect_the_limit(engine: LLMEngine, deterministic: bool) -> None:
    grammar = 'root ::= " one two three four five six"'

    answer = complete(engine, prompt="Count:", max_tokens=4, grammar=grammar, deterministic=deterministic)

    assert text(answer) == " one two three four"
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (4, "length")


def test_a_repeated_prompt_is_not_decoded_again(engine: LLMEngine) -> None:
    body: dict[str, Any] = {"prompt": "A prompt that nobody else has: the skin", "max_tokens": 3}

    first, again = complete(engine, **body, seed=1), complete(engine, **body, seed=2)

    assert first.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens_details.cached_tokens < first.usage.prompt_tokens - 1
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_a_repeated_beginning_under_a_grammar_is_not_decoded_again(engine: LLMEngine, weights: Weights) -> None:
    prompt, beginning = "Another prompt of its own:", " The lesion is firm, and its type is "
    first = f'root ::= "{beginning}" ("a" | "b")'
    other = f'root ::= "{beginning}" ("a" | "b") ", the other"'

    def decoded(grammar: str, **more: Any) -> int:
        before = engine.stats.decoded_tokens
        complete(engine, prompt=prompt, grammar=grammar, temperature=1.0, **more)
        return engine.stats.decoded_tokens - before

    whole = len(weights.encode(prompt, begin=True)) + len(weights.encode(beginning, begin=False))
    assert decoded(first) >= whole - 2  # other requests may share its first tokens
    assert decoded(first, seed=9) == 0
    assert decoded(other, seed=9) == 0


def test_metrics_cover_tokens_batches_cache_and_queue(engine: LLMEngine) -> None:
    submit_and_wait(engine, CASES[1].request())
    wait_for_state(engine, "running", 0)

    with TestClient(create_engine(engine)) as client:
        metrics_text = client.get("/metrics").text

    for kind in ("prompt", "cached", "forced", "sampled", "decoded"):
        assert f'dermnote_engine_tokens_total{{kind="{kind}"}}' in metrics_text
    for name in ("batch_tokens", "queue_seconds", "first_token_seconds"):
        assert f"dermnote_engine_{name}_bucket" in metrics_text
        assert metric(engine, f"{name}_count") > 0
    assert metric(engine, "state", what="slots") == 8
    assert metric(engine, "state", what="cells") == CELLS
    assert 0 < metric(engine, "state", what="cells_held") <= CELLS
    assert metric(engine, "state", what="lanes_used") > 0
    assert metric(engine, "tokens_total", kind="decoded") == engine.stats.decoded_tokens


# Stop texts.


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("segmented", [False, True])
def test_a_stop_text_ends_a_text_under_a_grammar(engine: LLMEngine, segmented: bool, deterministic: bool) -> None:
    written = {"grammar": 'root ::= " one" (" two" | " three") "\\n" [a-z\\n]+', "stop": ["\n"], "max_tokens": 30}
    body = {"segments": [written, {"text": "."}]} if segmented else written

    answer = complete(engine, prompt="Count:", deterministic=deterministic, **body)

    end = "." if segmented else ""
    assert text(answer) in {f" one two{end}", f" one three{end}"}
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("deterministic", [False, True])
def test_after_a_stop_text_the_model_sees_only_the_text_before_it(engine: LLMEngine, deterministic: bool) -> None:
    """The first token of the stop text is decoded before its second one. Greedy, as above."""
    stops = [" stops here", " stops there", " halts here", " halts there"]
    stopped = {"grammar": 'root ::= " animal" (" stops" | " halts") (" here" | " there")', "stop": stops}
    writes = {"grammar": "root ::= [a-z ]+", "max_tokens": 12}

    def written(*segments: dict[str, Any]) -> str:
        body: dict[str, Any] = {"prompt": "A story.", "temperature": 0, "deterministic": deterministic}
        return text(complete(engine, segments=list(segments), **body))

    given = written({"text": " My animal"}, writes)
    assert given.startswith(" My animal")
    assert written({"text": " My"}, stopped, writes) == given


def test_a_segment_that_stops_at_once_is_followed_by_the_next(engine: LLMEngine) -> None:
    at_once = {"grammar": 'root ::= "x" | "y"', "stop": ["x", "y"]}
    segments = [at_once, {"grammar": 'root ::= "a" | "b"'}]

    for deterministic in (False, True):
        answer = complete(engine, prompt="A letter:", segments=segments, deterministic=deterministic)
        assert text(answer) in ("a", "b")


def test_a_fixed_text_that_the_vocabulary_cannot_express_is_rejected(engine: LLMEngine) -> None:
    with pytest.raises(PromptEmpty):
        complete(engine, prompt="A mole", segments=[{"text": " It\x04 is"}])


# Broken contexts and memory.


class Breaking(LlamaContext):
    """Loses its cache at the decodes numbered in `broken_at`."""

    broken_at: Sequence[int] = ()

    def __init__(self, *settings: Any, **more: Any) -> None:
        super().__init__(*settings, **more)
        self.decodes = 0

    def decode(self, rows: Sequence[BatchToken]) -> None:
        self.decodes += 1
        if self.decodes in self.broken_at:
            raise ContextBroken
        super().decode(rows)


def test_a_broken_context_is_rebuilt_and_no_request_is_lost(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy with clear preferences, so that the batch's shape cannot change a text."""
    monkeypatch.setattr(engine_module, "LlamaContext", Breaking)
    monkeypatch.setattr(Breaking, "broken_at", (2, 4))
    grammar = 'root ::= " two" (" three" | " zebra") (" four" | " banana") (" five" | " carpet")'
    bodies = [{"prompt": f"Counting, line {n}: one", "grammar": grammar, "temperature": 0} for n in range(12)]
    with running(weights) as engine:
        answers = [engine.submit(CompletionRequest.model_validate(body), cancelled=never) for body in bodies]

        assert [text(answer.result(WAIT_S)) for answer in answers] == [" two three four five"] * 12
        assert engine.stats.rebuilds == 2
        assert engine.alive


def test_a_deterministic_request_survives_a_broken_context(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, alone: list[str]
) -> None:
    monkeypatch.setattr(engine_module, "LlamaContext", Breaking)
    monkeypatch.setattr(Breaking, "broken_at", (2,))
    request = CASES[0].request(deterministic=True)
    with running(weights) as engine:
        assert text(submit_and_wait(engine, request)) == alone[0]


class BreakingTwice(LlamaContext):
    """The first two decodes of deterministic requests lose the cache."""

    remaining = 2

    def decode(self, batch: Sequence[BatchToken]) -> None:
        if self.max_sequences == 2 and BreakingTwice.remaining:
            BreakingTwice.remaining -= 1
            raise ContextBroken
        super().decode(batch)


def test_a_deterministic_context_that_breaks_twice_fails_its_requests_only(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, alone: list[str]
) -> None:
    monkeypatch.setattr(engine_module, "LlamaContext", BreakingTwice)
    monkeypatch.setattr(BreakingTwice, "remaining", 2)
    request = CASES[0].request(deterministic=True)
    with running(weights) as engine:
        with pytest.raises(EngineFailed):
            submit_and_wait(engine, request)

        assert text(submit_and_wait(engine, CASES[1].request())) in (CASES[1].allowed or ())
        assert text(submit_and_wait(engine, request)) == alone[0]


def test_a_deterministic_context_without_memory_fails_its_requests_only(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError("no memory")

    with running(weights) as engine:
        monkeypatch.setattr(engine_module, "LlamaContext", no_memory)
        with pytest.raises(EngineFailed):
            submit_and_wait(engine, CASES[1].request(deterministic=True))

        assert text(submit_and_wait(engine, CASES[1].request())) in (CASES[1].allowed or ())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_context_that_breaks_twice_ends_the_engine_and_fails_all_requests(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LlamaContext", Breaking)
    monkeypatch.setattr(Breaking, "broken_at", (1, 2))
    with running(weights) as engine:
        answers = [engine.submit(case.request(), cancelled=never) for case in CASES[:12]]

        for answer in answers:
            with pytest.raises(EngineFailed):
                answer.result(WAIT_S)
        wait_until(lambda: not engine.alive, timeout_s=WAIT_S, what="the engine has ended")


def test_memory_stays_flat_over_hundreds_of_requests(
    weights: Weights, engine: LLMEngine, record_testsuite_property: Callable[[str, object], None]
) -> None:
    def round_of(numbers: range, *, prompts: bool = True) -> int:
        """Run requests with distinct grammars, and distinct prompts by default; returns the resident bytes."""
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
        for answer in [engine.submit(request, cancelled=never) for request in requests]:
            answer.result(WAIT_S)
        return int(psutil.Process().memory_info().rss)

    # Fill the caches: logits of 256 nodes, a quarter of the cells, grammars.
    round_of(range(120))
    round_of(range(1000, 1000 + MATCHER_CACHE_SIZE), prompts=False)

    sizes = [round_of(range(start, start + amount(40, 100))) for start in (2000, 3000, 4000)]

    record_testsuite_property("rss_mib", [size / 2**20 for size in sizes])
    assert len(weights.vocabulary._matchers) == MATCHER_CACHE_SIZE
    assert sizes[-1] - sizes[0] < 8 * 2**20, sizes
