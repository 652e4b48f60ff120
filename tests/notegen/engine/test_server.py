"""The engine process with the real GGUF, on its Unix socket."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dermnote_contracts.completions import CompletionRequest
from dermnote_contracts.notes import NoteOptions
from dermnote_contracts.problems import EngineRefused, EngineUnavailable
from dermnote_notegen.engine.model import ModelNotFound, find_weights
from dermnote_notegen.verify import Verifier
from dermnote_notegen.worker import writer
from dermnote_notegen.worker.engine_client import EngineClient
from dermnote_notegen.writing.priors import load_priors
from dermnote_notegen.writing.prompt import build_prompt
from dermnote_notegen.writing.strategies import NoteFacts
from tests.notegen.processes import NoteService
from tests.ports import free_port

pytestmark = pytest.mark.gguf
FACTS = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"}
PROMPT = build_prompt("P2", facts=NoteFacts(FACTS, FACTS), prior=None, options=NoteOptions(), seed=0)
PRIORS = load_priors()
METRICS_PORT = free_port()


@pytest.fixture(scope="module")
def engine(short_folder: Path) -> Iterator[EngineClient]:
    folder = short_folder / "gguf"
    folder.mkdir()
    settings = {"NOTEGEN_MODEL": "smollm2", "NOTEGEN_ENGINE_METRICS_PORT": str(METRICS_PORT)}
    service = NoteService(folder, settings=settings)
    try:
        service.engine.start()
        client = EngineClient(socket=service.engine_socket, wait_s=5)
        yield client
        client.close()
    finally:
        service.engine.stop()


def ask(engine: EngineClient, prompt: str = PROMPT.text, **settings: object) -> str:
    request = CompletionRequest.model_validate(
        {"prompt": prompt, "max_tokens": 60, "stop": ["\n"], "seed": 3, **settings}
    )
    return engine.complete(request).choices[0].text


def test_a_p2_note_is_generated_and_its_prefix_is_cached(engine: EngineClient) -> None:
    request = CompletionRequest(prompt=PROMPT.text, max_tokens=PROMPT.max_tokens, stop=list(PROMPT.stop), seed=1)
    engine.complete(request)

    answer = engine.complete(request)

    text = writer.tidy(answer.choices[0].text, finished=True)
    assert Verifier(PRIORS).verify(text, facts=FACTS).verification.coverage >= 0.5, text
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens - 1
    assert answer.usage.completion_tokens > 5


def test_a_deterministic_text_does_not_depend_on_earlier_requests(engine: EngineClient) -> None:
    first = ask(engine, deterministic=True, temperature=0.8)
    ask(engine, prompt="Something else entirely, to fill the cache.")

    assert ask(engine, deterministic=True, temperature=0.8) == first


def test_a_text_follows_its_grammar(engine: EngineClient) -> None:
    assert ask(engine, grammar='root ::= " yes" | " no"').strip() in ("yes", "no")


def test_a_g_note_follows_its_grammar_and_reports_its_token_counts(engine: EngineClient) -> None:
    facts = NoteFacts(FACTS, FACTS)
    prompt = build_prompt("G", facts=facts, prior=PRIORS["melanoma"], options=NoteOptions(), seed=11)
    request = CompletionRequest(
        prompt=prompt.text, max_tokens=prompt.max_tokens, temperature=1.0, top_p=1.0, seed=5, grammar=prompt.grammar
    )

    answer = engine.complete(request)

    usage = answer.usage
    assert Verifier(PRIORS).verify(answer.choices[0].text, facts=FACTS).verification.faithful, answer.choices[0].text
    assert answer.choices[0].finish_reason == "stop"
    assert usage.decisions is not None
    assert writer.MIN_DECISIONS <= usage.decisions <= usage.completion_tokens - usage.forced_tokens
    assert usage.forced_tokens > usage.decisions


def test_under_a_grammar_texts_depend_on_the_seed(engine: EngineClient) -> None:
    words = " | ".join(f'" {word}"' for word in ("red", "blue", "green", "white", "black", "brown", "pink", "gray"))

    def drawn(seed: int) -> str:
        grammar = f"root ::= ({words}) ({words})"
        return ask(engine, "The lesion is", grammar=grammar, seed=seed, temperature=2.0, deterministic=True)

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(12)}) > 3


def test_a_text_cut_by_the_token_limit_has_finish_reason_length(engine: EngineClient) -> None:
    request = CompletionRequest(prompt="Say:", max_tokens=4, grammar='root ::= " one two three four five six seven"')

    assert engine.complete(request).choices[0].finish_reason == "length"


def test_impossible_requests_are_rejected_and_the_engine_survives(engine: EngineClient) -> None:
    with pytest.raises(EngineRefused):
        ask(engine, grammar="root ::= (")
    with pytest.raises(EngineRefused):
        ask(engine, prompt="word " * 5000)

    assert ask(engine)


def test_a_passed_deadline_raises_engine_unavailable(engine: EngineClient) -> None:
    with pytest.raises(EngineUnavailable):
        ask(engine, deadline_s=0.001)


def test_metrics_are_served_on_their_own_port(engine: EngineClient) -> None:
    ask(engine)

    text = httpx.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=30).text

    assert 'dermnote_engine_tokens_total{kind="sampled"}' in text


def test_the_model_is_reported_with_its_hash(engine: EngineClient) -> None:
    model = engine.model

    assert model.name == "smollm2"
    assert model.sha256 == find_weights("smollm2")[2]


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        find_weights(str(tmp_path / "none.gguf"))
