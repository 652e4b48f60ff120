"""The engine's protocol over HTTP: what OpenAI's clients send is taken where it asks for nothing that isn't served."""

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
from tests.notegen.processes import answers, free_port, wait_until

# All that OpenAI's reference has, each at a value that changes nothing.
NOTHING_ASKED: dict[str, Any] = {
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
ASKED_FOR: list[tuple[str, Any]] = [
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
    """As JSON has it, half surrogates too."""
    content = json.dumps({"prompt": "A mole:"} | body).encode()
    return client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})


def test_all_of_openais_fields_are_taken_where_they_ask_for_nothing(client: TestClient, model: ScriptedModel) -> None:
    answer = ask(client, **NOTHING_ASKED)

    assert answer.status_code == 200, answer.text
    assert model.asked == [
        CompletionRequest(model="any", prompt="A mole:", max_tokens=9, temperature=0.5, top_p=0, seed=5)
    ]


def test_null_stands_for_the_default_which_is_openais(client: TestClient, model: ScriptedModel) -> None:
    assert ask(client, **dict.fromkeys(NOTHING_ASKED)).status_code == 200

    (asked,) = model.asked
    assert asked == CompletionRequest(prompt="A mole:", seed=asked.seed)
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.top_k, asked.stop) == (16, 1.0, 1.0, 0, [])


@pytest.mark.parametrize(("name", "value"), ASKED_FOR)
def test_what_is_not_served_is_refused_by_name(client: TestClient, name: str, value: Any) -> None:
    answer = ask(client, **{name: value})

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == f"body.{name}"
    assert error["message"].startswith(f"{name}: only ")
    assert error["message"].endswith(" is served")


@pytest.mark.parametrize("value", [1, None])
def test_names_that_openai_has_not_either_are_refused(client: TestClient, value: Any) -> None:
    answer = ask(client, beam_width=value)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["body.beam_width"]


def test_a_prompt_and_a_stop_text_may_be_alone_or_in_a_list(client: TestClient, model: ScriptedModel) -> None:
    assert ask(client, prompt=["One:"], stop="\n").status_code == 200
    assert ask(client, prompt="One:", stop=["\n"]).status_code == 200

    assert [(asked.prompt, asked.stop) for asked in model.asked] == [("One:", ["\n"])] * 2


@pytest.mark.parametrize("prompts", [[], ["One:", "Two:"], [1, 2, 3], [[1, 2]]])
def test_several_prompts_or_tokens_are_refused(client: TestClient, prompts: list[Any]) -> None:
    answer = ask(client, prompt=prompts)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["message"] == "prompt: only one text is served"


@pytest.mark.parametrize("none", [{}, {"seed": None}, {"seed": -1}, {"seed": -1, "deterministic": True}])
def test_without_a_seed_each_request_draws_its_own(none: dict[str, Any]) -> None:
    seeds = {CompletionRequest.model_validate({"prompt": "x"} | none).seed for _ in range(9)}

    assert len(seeds) > 1


def test_a_deterministic_request_without_a_seed_has_the_same_one_each_time() -> None:
    assert {CompletionRequest(prompt="x", deterministic=True).seed for _ in range(9)} == {0}


def test_the_seed_is_sent_whatever_it_is_where_defaults_are_left_out() -> None:
    drawn = CompletionRequest(prompt="x")

    assert drawn.model_dump(mode="json", exclude_defaults=True) == {"prompt": "x", "seed": drawn.seed}


LONG = "x" * 200_001


@pytest.mark.parametrize("bad", [SURROGATE, "", LONG], ids=["half a surrogate pair", "empty", "too long"])
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
def test_a_text_that_can_not_be_one_is_refused(client: TestClient, model: ScriptedModel, where: Any, bad: str) -> None:
    assert ask(client, **where(bad)).status_code == 422
    assert not model.asked


def test_a_model_or_user_of_half_a_surrogate_pair_does_no_harm(client: TestClient) -> None:
    assert ask(client, model=SURROGATE).status_code == 422
    assert ask(client, user=SURROGATE).status_code == 200


def test_an_answer_is_what_openais_clients_read(client: TestClient) -> None:
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


def test_the_official_client_gets_its_answers_and_its_refusals(url: str, model: ScriptedModel) -> None:
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
    assert refused.value.response.json()["errors"][0]["message"] == "n: only 1 is served"
    assert (model.asked[-1].stop, model.asked[-1].segments is not None) == (["\n"], True)


def test_a_request_made_in_python_is_refused_as_one_over_http_is() -> None:
    with pytest.raises(ValidationError, match="n: only 1 is served"):
        CompletionRequest.model_validate({"prompt": "x", "n": 3})
