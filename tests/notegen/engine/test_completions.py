"""The engine's protocol over HTTP: OpenAI's fields are accepted unless they request an unsupported feature."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from pydantic import ValidationError

from dermnote_contracts.completions import CompletionRequest
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.engine.server import create_engine
from tests.notegen.processes import answers, wait_until
from tests.ports import free_port

# All fields of OpenAI's reference, at neutral values.
NEUTRAL_FIELDS: dict[str, Any] = {
    "model": "any",
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": None,
    "max_tokens": 9,
    "n": 1,
    "presence_penalty": 0.0,
    "seed": 5,
    "stop": None,
    "stream": False,
    "stream_options": None,
    "suffix": "",
    "temperature": 0.5,
    "top_p": 0,
    "user": "somebody",
}
UNSUPPORTED: list[tuple[str, Any]] = [
    ("best_of", 2),
    ("echo", True),
    ("frequency_penalty", 0.5),
    ("logit_bias", {"50256": -100}),
    ("logprobs", 0),
    ("logprobs", 3),
    ("n", 2),
    ("presence_penalty", -1),
    ("stream", True),
    ("stream_options", {"include_usage": True}),
    ("suffix", " the end"),
]
SURROGATE = "\ud800"


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(["It is a mole."])


@pytest.fixture
def client(model: ScriptedModel) -> Iterator[TestClient]:
    with TestClient(create_engine(model)) as served:
        yield served


def ask(client: TestClient, **body: Any) -> Any:
    """Send JSON that may contain lone surrogates."""
    content = json.dumps({"prompt": "A mole:"} | body).encode()
    return client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})


def test_all_openai_fields_are_accepted_at_neutral_values(client: TestClient, model: ScriptedModel) -> None:
    answer = ask(client, **NEUTRAL_FIELDS)

    assert answer.status_code == 200, answer.text
    assert model.requests == [
        CompletionRequest(model="any", prompt="A mole:", max_tokens=9, temperature=0.5, top_p=0, seed=5)
    ]


def test_null_means_openais_default(client: TestClient, model: ScriptedModel) -> None:
    assert ask(client, **dict.fromkeys(NEUTRAL_FIELDS)).status_code == 200

    (sent,) = model.requests
    assert sent == CompletionRequest(prompt="A mole:", seed=sent.seed)
    assert (sent.max_tokens, sent.temperature, sent.top_p, sent.top_k, sent.stop) == (16, 1.0, 1.0, 0, [])


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
def test_unsupported_features_are_rejected_by_name(client: TestClient, name: str, value: Any) -> None:
    answer = ask(client, **{name: value})

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == f"body.{name}"
    assert error["message"].startswith(f"{name}: only ")
    assert error["message"].endswith(" is supported")


@pytest.mark.parametrize("value", [1, None])
def test_unknown_fields_are_rejected(client: TestClient, value: Any) -> None:
    answer = ask(client, beam_width=value)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["body.beam_width"]


def test_prompt_and_stop_may_be_a_text_or_a_list(client: TestClient, model: ScriptedModel) -> None:
    assert ask(client, prompt=["One:"], stop="\n").status_code == 200
    assert ask(client, prompt="One:", stop=["\n"]).status_code == 200

    assert [(sent.prompt, sent.stop) for sent in model.requests] == [("One:", ["\n"])] * 2


@pytest.mark.parametrize("prompts", [[], ["One:", "Two:"], [1, 2, 3], [[1, 2]]])
def test_several_prompts_or_tokens_are_rejected(client: TestClient, prompts: list[Any]) -> None:
    answer = ask(client, prompt=prompts)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["message"] == "prompt: only one text is supported"


@pytest.mark.parametrize("none", [{}, {"seed": None}, {"seed": -1}, {"seed": -1, "deterministic": True}])
def test_without_a_seed_each_request_draws_one(none: dict[str, Any]) -> None:
    seeds = {CompletionRequest.model_validate({"prompt": "x"} | none).seed for _ in range(9)}

    assert len(seeds) > 1


def test_a_deterministic_request_without_a_seed_uses_a_fixed_one() -> None:
    assert {CompletionRequest(prompt="x", deterministic=True).seed for _ in range(9)} == {0}


def test_a_drawn_seed_is_sent_even_if_defaults_are_excluded() -> None:
    drawn = CompletionRequest(prompt="x")

    assert drawn.model_dump(mode="json", exclude_defaults=True) == {"prompt": "x", "seed": drawn.seed}


LONG = "x" * 200_001


@pytest.mark.parametrize("bad", [SURROGATE, "", LONG], ids=["lone surrogate", "empty", "too long"])
@pytest.mark.parametrize(
    "where",
    [
        lambda bad: {"prompt": bad},
        lambda bad: {"prompt": [bad]},
        lambda bad: {"grammar": bad},
        lambda bad: {"stop": bad},
        lambda bad: {"stop": ["\n", bad]},
        lambda bad: {"segments": [{"text": bad}]},
        lambda bad: {"segments": [{"stop": [bad]}]},
        lambda bad: {"segments": [{"grammar": bad}]},
    ],
    ids=["prompt", "prompts", "grammar", "stop", "stops", "segment", "segment stop", "segment grammar"],
)
def test_invalid_texts_are_rejected(client: TestClient, model: ScriptedModel, where: Any, bad: str) -> None:
    assert ask(client, **where(bad)).status_code == 422
    assert not model.requests


def test_a_lone_surrogate_in_model_or_user_is_handled(client: TestClient) -> None:
    assert ask(client, model=SURROGATE).status_code == 422
    assert ask(client, user=SURROGATE).status_code == 200


def test_the_response_matches_openais_schema(client: TestClient) -> None:
    answer = ask(client).json()

    assert (answer["object"], answer["model"]) == ("text_completion", "scripted")
    assert answer["choices"][0] == {"index": 0, "text": " It is a mole.", "finish_reason": "stop", "logprobs": None}
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


@pytest.fixture
def url(model: ScriptedModel) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_engine(model), host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/models"), timeout_s=30, what="the engine serves")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


def test_the_official_client_works_and_gets_its_errors(url: str, model: ScriptedModel) -> None:
    openai = pytest.importorskip("openai", reason="OpenAI's own client: pip install openai")
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        more = {"grammar": 'root ::= " red"', "segments": [{"grammar": 'root ::= " red"'}]}
        answer = client.completions.create(
            model="scripted", prompt=["A mole:"], stop="\n", n=1, stream=False, user="me", extra_body=more
        )
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.completions.create(model="scripted", prompt="A mole:", n=2)

    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" It is a mole.", "stop")
    assert answer.usage.total_tokens > 0
    assert refused.value.response.json()["errors"][0]["message"] == "n: only 1 is supported"
    assert (model.requests[-1].stop, model.requests[-1].segments is not None) == (["\n"], True)


def test_a_request_built_in_python_is_validated_like_one_over_http() -> None:
    with pytest.raises(ValidationError, match="n: only 1 is supported"):
        CompletionRequest.model_validate({"prompt": "x", "n": 3})
