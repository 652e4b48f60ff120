"""A model with recurrent memory: a state cannot be cut at a prefix, so it runs without sharing."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_notegen.engine.build import load
from dermnote_notegen.engine.engine import LLMEngine
from dermnote_notegen.engine.llama import ContextConfig, LlamaContext, Weights
from dermnote_notegen.engine.model import ModelInfo
from dermnote_notegen.settings import Settings
from tests.notegen.engine.recurrent import STATE_BYTES, TRAINED_CONTEXT, write_mamba

# llguidance uses a deprecated name of llama-cpp-python's API.
pytestmark = [pytest.mark.gguf, pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")]
WAIT_S = 120
SLOTS = 4
WORDS = {"grammar": "root ::= [a-z ]{1,8}", "max_tokens": 12}
BODIES: list[dict[str, Any]] = [
    {"prompt": f"the lesion is {number}", "temperature": 1.0, "seed": number}
    | (
        {"max_tokens": 16, "grammar": "root ::= [a-z ]+"},
        {"max_tokens": 10},
        {"segments": [{"text": " it is"}, WORDS, {"text": "."}, WORDS | {"from_prompt": True}]},
    )[number % 3]
    for number in range(12)
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf")


@pytest.fixture(scope="module")
def weights(path: Path) -> Iterator[Weights]:
    loaded = Weights(path)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def engine(weights: Weights) -> Iterator[LLMEngine]:
    shape = ContextConfig(cells=1024, max_sequences=SLOTS + 1, threads=1)
    engine = LLMEngine(weights, shape, model_info=ModelInfo("mamba", None), slots=SLOTS, context_tokens=256)
    yield engine
    engine.close()


def answers(engine: LLMEngine, **more: Any) -> list[CompletionResponse]:
    """All requests concurrently."""
    futures = [engine.submit(CompletionRequest(**(body | more)), cancelled=lambda: False) for body in BODIES]
    return [answer.result(WAIT_S) for answer in futures]


def texts(results: list[CompletionResponse]) -> list[str]:
    return [one.choices[0].text for one in results]


def test_the_memory_of_a_state_is_measured_at_start(weights: Weights) -> None:
    assert weights.no_sharing_reason is not None
    assert "recurrent" in weights.no_sharing_reason
    assert weights.trained_context == TRAINED_CONTEXT
    assert weights.cache_bytes.per_sequence == pytest.approx(STATE_BYTES, rel=0.05)
    assert weights.cache_bytes.per_token < STATE_BYTES / 100


def test_requests_are_batched_without_sharing(engine: LLMEngine) -> None:
    results = answers(engine)

    assert all(
        text for number, text in enumerate(texts(results)) if number % 3 != 1
    )  # a text without a grammar may be empty
    for text in texts(results)[2::3]:
        assert text.startswith(" it is")
        assert "." in text
    for one in results:
        assert one.usage.prompt_tokens_details is not None
        assert one.usage.prompt_tokens_details.cached_tokens == 0
    assert not engine.info()["shares_prefixes"]


def test_deterministic_texts_are_the_same_alone_and_among_others(engine: LLMEngine) -> None:
    alone = [
        engine.submit(CompletionRequest(**body, deterministic=True), cancelled=lambda: False).result(WAIT_S)
        for body in BODIES
    ]
    concurrent = [engine.submit(CompletionRequest(**body), cancelled=lambda: False) for body in BODIES]

    assert texts(answers(engine, deterministic=True)) == texts(alone)
    assert len(set(texts(alone))) == len(BODIES)
    for other in concurrent:
        other.result(WAIT_S)


def test_each_request_sees_only_its_own_prompt(engine: LLMEngine) -> None:
    """Greedy: a text is the same alone and among others, whichever request used its sequence before."""
    bodies = [
        {"prompt": prompt, "temperature": 0, "grammar": "root ::= [a-z ]+", "max_tokens": 8}
        for prompt in ("the lesion", "a", "is a lesion is a lesion", "zebra", "the the the", "mole", "x", "a mole is")
    ]

    alone = [engine.submit(CompletionRequest(**body), cancelled=lambda: False).result(WAIT_S) for body in bodies]
    together = [engine.submit(CompletionRequest(**body), cancelled=lambda: False) for body in bodies]

    assert texts([one.result(WAIT_S) for one in together]) == texts(alone)
    assert len(set(texts(alone))) > 1


def test_the_cache_is_empty_after_the_last_request(weights: Weights) -> None:
    engine = LLMEngine(
        weights,
        ContextConfig(cells=1024, max_sequences=SLOTS + 1, threads=1),
        model_info=ModelInfo("mamba", None),
        slots=SLOTS,
        context_tokens=256,
    )
    try:
        answers(engine)
        cache = engine._scheduler.cache
        assert (cache.cells_held, cache.sequences_used) == (0, 0)
    finally:
        engine.close()


def test_its_context_does_not_share(weights: Weights) -> None:
    context = LlamaContext(weights, ContextConfig(cells=256, max_sequences=2, threads=1))
    try:
        assert not context.shares
    finally:
        context.close()


def test_the_engine_starts_with_it_and_logs_why_nothing_is_shared(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        engine = load(Settings(model=str(path), requantize="off", slots=SLOTS, context_tokens=256))
    try:
        (first, *_) = answers(engine)
    finally:
        engine.close()

    assert first.choices[0].text
    assert "prefixes are not shared between requests: the model's memory is recurrent" in caplog.text
    assert engine.info()["memory_mib"] >= (SLOTS + 2) * STATE_BYTES >> 20
