"""A model whose memory is recurrent: a state can't be cut at a prefix, so it works without sharing, and says so."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_notegen.engine.build import load
from dermnote_notegen.engine.engine import BatchEngine
from dermnote_notegen.engine.llama import LlamaContext, Shape, Weights
from dermnote_notegen.engine.model import Origin
from dermnote_notegen.settings import Settings
from tests.notegen.engine.recurrent import STATE_BYTES, TRAINED_CONTEXT, write_mamba

# llguidance's own code asks llama-cpp-python by an old name.
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
def engine(weights: Weights) -> Iterator[BatchEngine]:
    shape = Shape(cells=1024, lanes=SLOTS + 1, threads=1)
    made = BatchEngine(weights, shape, origin=Origin("mamba", None), slots=SLOTS, context_tokens=256)
    yield made
    made.close()


def answers(engine: BatchEngine, **more: Any) -> list[CompletionResponse]:
    """All the requests at a time."""
    asked = [engine.submit(CompletionRequest(**(body | more)), stop=lambda: False) for body in BODIES]
    return [answer.result(WAIT_S) for answer in asked]


def texts(found: list[CompletionResponse]) -> list[str]:
    return [one.choices[0].text for one in found]


def test_its_memory_is_known_before_anything_is_asked(weights: Weights) -> None:
    assert weights.unshared_memory is not None
    assert "recurrent" in weights.unshared_memory
    assert weights.trained_context == TRAINED_CONTEXT
    assert weights.lane_bytes == pytest.approx(STATE_BYTES, rel=0.05)
    assert weights.cell_bytes < STATE_BYTES / 100


def test_requests_in_one_batch_are_answered_without_sharing(engine: BatchEngine) -> None:
    found = answers(engine)

    assert all(text for number, text in enumerate(texts(found)) if number % 3 != 1)  # a free one may end at once
    for text in texts(found)[2::3]:
        assert text.startswith(" it is")
        assert "." in text
    for one in found:
        assert one.usage.prompt_tokens_details is not None
        assert one.usage.prompt_tokens_details.cached_tokens == 0
    assert not engine.info()["shares_prefixes"]


def test_deterministic_texts_are_the_same_alone_and_beside_others(engine: BatchEngine) -> None:
    alone = [
        engine.submit(CompletionRequest(**body, deterministic=True), stop=lambda: False).result(WAIT_S)
        for body in BODIES
    ]
    beside = [engine.submit(CompletionRequest(**body), stop=lambda: False) for body in BODIES]

    assert texts(answers(engine, deterministic=True)) == texts(alone)
    assert len(set(texts(alone))) == len(BODIES)
    for other in beside:
        other.result(WAIT_S)


def test_each_request_sees_its_own_prompt_alone(engine: BatchEngine) -> None:
    """Greedy: what one is asked beside others is what it is asked alone, whoever used its lane before."""
    bodies = [
        {"prompt": prompt, "temperature": 0, "grammar": "root ::= [a-z ]+", "max_tokens": 8}
        for prompt in ("the lesion", "a", "is a lesion is a lesion", "zebra", "the the the", "mole", "x", "a mole is")
    ]

    alone = [engine.submit(CompletionRequest(**body), stop=lambda: False).result(WAIT_S) for body in bodies]
    together = [engine.submit(CompletionRequest(**body), stop=lambda: False) for body in bodies]

    assert texts([one.result(WAIT_S) for one in together]) == texts(alone)
    assert len(set(texts(alone))) > 1


def test_nothing_is_kept_once_all_have_ended(weights: Weights) -> None:
    engine = BatchEngine(
        weights,
        Shape(cells=1024, lanes=SLOTS + 1, threads=1),
        origin=Origin("mamba", None),
        slots=SLOTS,
        context_tokens=256,
    )
    try:
        answers(engine)
        tree = engine._scheduler.tree
        assert (tree.held, tree.lanes_used) == (0, 0)
    finally:
        engine.close()


def test_a_context_of_it_says_that_it_does_not_share(weights: Weights) -> None:
    context = LlamaContext(weights, Shape(cells=256, lanes=2, threads=1))
    try:
        assert not context.shares
    finally:
        context.close()


def test_the_engine_starts_with_it_by_one_setting_and_says_why_it_is_slower(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        engine = load(Settings(model=str(path), requantize="off", slots=SLOTS, context_tokens=256))
    try:
        (found, *_) = answers(engine)
    finally:
        engine.close()

    assert found.choices[0].text
    assert "prefixes are not shared between requests: its memory is recurrent" in caplog.text
    assert engine.info()["memory_mib"] >= (SLOTS + 2) * STATE_BYTES >> 20
