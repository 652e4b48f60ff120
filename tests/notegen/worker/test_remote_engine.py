"""A remote server instead of the engine: the results of the probe, the requests sent, and the provenance."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from dermnote_contracts.completions import CompletionRequest
from dermnote_contracts.notes import Note, NoteRequest
from dermnote_contracts.problems import EngineRefused, EngineUnavailable
from dermnote_notegen.engine.model import find_weights
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.engine.server import create_engine
from dermnote_notegen.worker.engine_client import EngineClient
from dermnote_notegen.worker.writer import MAX_ATTEMPTS, NoteWriter
from dermnote_notegen.writing.priors import load_priors
from lab.peers.llama_server import ServerSettings, context_for
from lab.peers.process import llama_server
from tests.notegen.processes import NoteService, answers, wait_until
from tests.ports import free_port

FACTS = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"}
GOOD = "A 61-year-old woman presents with a melanoma on the back."
BAD = "A 61-year-old man presents with a melanoma on the back."
GRAMMAR = 'root ::= " red" | " blue"'
# The fields of OpenAI's reference: a strict server accepts no others.
OPENAI = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop"}
OURS = {"segments", "deterministic", "deadline_s"}
READ: dict[str, Callable[[Any], str]] = {
    "grammar": str,
    "guided_grammar": str,
    "structured_outputs": lambda wrapped: str(wrapped["grammar"]),
}


@dataclass
class FakeServer:
    """An OpenAI-compatible server.

    `honours`: the grammar field that it follows; `takes`: all fields that it accepts, None for any; `texts`: its
    answers without a grammar, in turn; `rejections`: statuses of its first responses; `models`: its responses to
    /v1/models until a model is loaded.
    """

    honours: str | None = None
    takes: set[str] | None = None
    texts: list[str] = field(default_factory=lambda: ["Of no matter."])
    rejections: list[int] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.rejections:
            return self.rejections.pop(0), {"error": {"message": "not now"}}
        if self.takes is not None and (unknown := set(body) - self.takes):
            return 400, {"error": {"message": f"unknown: {sorted(unknown)}"}}
        self.requests.append(body)
        text = self._guided(body) or self.texts[(len(self.real) - 1) % len(self.texts)]
        usage = {"prompt_tokens": 9, "completion_tokens": len(text.split())}
        return 200, {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}],
            "usage": usage,
        }

    @property
    def real(self) -> list[dict[str, Any]]:
        """The requests without probes."""
        return [body for body in self.requests if body["prompt"] != "Say a word:"]

    def _guided(self, body: dict[str, Any]) -> str | None:
        if self.honours is None or self.honours not in body:
            return None
        request = CompletionRequest(
            prompt="-", grammar=READ[self.honours](body[self.honours]), seed=body.get("seed", 0)
        )
        return ScriptedModel().complete(request, cancelled=lambda: False).choices[0].text


@contextmanager
def served(server: FakeServer) -> Iterator[str]:
    """The server's URL while it serves."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            entry = {"id": "some-model", "object": "model", "owned_by": "a-server", "max_model_len": 4096}
            self._send(200, server.models.pop(0) if server.models else {"object": "list", "data": [entry]})

        def do_POST(self) -> None:
            self._send(*server.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


@contextmanager
def client_of(url: str, **settings: Any) -> Iterator[EngineClient]:
    client = EngineClient(**{"socket": Path("unused"), "url": url, "wait_s": 20} | settings)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def remote(server: FakeServer) -> Iterator[EngineClient]:
    with served(server) as url, client_of(url) as client:
        yield client


def write(client: EngineClient, *, strategy: str = "G", seed: int = 3, **options: Any) -> Note:
    request = NoteRequest.model_validate({"metadata": FACTS, "strategy": strategy, "options": options})
    (note,) = NoteWriter(client, load_priors()).write(request, seed=seed)
    return note


# Servers by the grammar field that they honour; "strict" ones reject unknown fields.
FOLLOWERS: dict[str, dict[str, Any]] = {
    "grammar": {"honours": "grammar"},
    "guided_grammar": {"honours": "guided_grammar"},
    "structured_outputs": {"honours": "structured_outputs"},
    "structured_outputs, strict": {
        "honours": "structured_outputs",
        "takes": OPENAI | {"structured_outputs", "top_k", "min_p"},
    },
    "guided_grammar, strict": {"honours": "guided_grammar", "takes": OPENAI | {"guided_grammar"}},
}
OTHERS: dict[str, dict[str, Any]] = {
    "none": {},
    "none, strict": {"takes": OPENAI},
    "none, strict but for sampling": {"takes": OPENAI | {"top_k", "min_p"}},
}


def made(kind: str) -> FakeServer:
    return FakeServer(**(FOLLOWERS | OTHERS)[kind])


@pytest.mark.parametrize("kind", FOLLOWERS)
def test_a_server_with_grammars_gets_them_in_its_own_field(kind: str) -> None:
    server = made(kind)
    with remote(server) as client:
        assert client.model.grammar
        answer = client.complete(CompletionRequest(prompt="A colour:", grammar=GRAMMAR, top_k=7, seed=2))

    (body,) = server.real
    assert answer.choices[0].text.strip() in ("red", "blue")
    assert READ[str(server.honours)](body[str(server.honours)]) == GRAMMAR
    assert not set(body) & ((set(READ) | OURS) - {server.honours})


@pytest.mark.parametrize("kind", OTHERS)
def test_a_server_without_grammars_gets_none(kind: str) -> None:
    server = made(kind)
    with remote(server) as client:
        assert not client.model.grammar
        request = CompletionRequest(
            prompt="A colour:",
            max_tokens=33,
            grammar=GRAMMAR,
            deterministic=True,
            deadline_s=9,
            segments=[{"text": " red"}],
        )
        client.complete(request)

    (body,) = server.real
    assert not set(body) & (set(READ) | OURS)
    assert (body["model"], body["prompt"], body["max_tokens"]) == ("some-model", "A colour:", 33)


@pytest.mark.parametrize("kind", [*FOLLOWERS, *OTHERS])
def test_top_k_and_min_p_are_sent_only_to_servers_that_accept_them(kind: str) -> None:
    server = made(kind)
    with remote(server) as client:
        client.complete(CompletionRequest(prompt="A colour:", top_k=7, min_p=0.1))

    sent = {name: value for name, value in server.real[-1].items() if name in ("top_k", "min_p")}
    assert sent == ({"top_k": 7, "min_p": 0.1} if server.takes is None or "top_k" in server.takes else {})


def test_a_server_is_probed_once_and_reported_under_its_own_name() -> None:
    server = FakeServer(honours="grammar")
    with remote(server) as client:
        first = client.model
        probes = len(server.requests)
        client.complete(CompletionRequest(prompt="A colour:"))
        again = client.info()

    assert first == again
    assert (first.name, first.engine, first.sha256) == ("some-model", "a-server", None)
    assert first.context_tokens == 4096
    assert len(server.requests) == probes + 1
    assert probes <= 4


def test_the_model_of_the_settings_is_requested() -> None:
    server = FakeServer()
    with served(server) as url, client_of(url, model_name="the-other") as client:
        assert client.model.name == "the-other"
        client.complete(CompletionRequest(prompt="A colour:"))

    assert {body["model"] for body in server.requests} == {"the-other"}


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_server_that_is_still_loading_is_probed_later(status: int) -> None:
    """llama.cpp's server names its model before it has loaded it."""
    with remote(FakeServer(honours="grammar", rejections=[status] * 3)) as client:
        with pytest.raises(EngineUnavailable):
            client.info()

        assert client.model.grammar


@pytest.mark.parametrize("failures", [1, 2])
def test_a_server_error_during_a_probe_does_not_count_as_a_rejection(failures: int) -> None:
    with remote(FakeServer(honours="grammar", rejections=[500] * failures)) as client:
        assert client.model.grammar


def test_a_server_is_probed_again_after_an_inconclusive_probe() -> None:
    server = FakeServer(honours="guided_grammar", rejections=[500] * 100)
    with served(server) as url, client_of(url, probe_again_s=0) as client:
        assert not client.model.grammar
        server.rejections.clear()

        assert client.model.grammar
        client.complete(CompletionRequest(prompt="A colour:", grammar=GRAMMAR))

    assert server.real[-1]["guided_grammar"] == GRAMMAR


def test_an_inconclusive_probe_is_not_repeated_at_once() -> None:
    server = FakeServer(honours="grammar", rejections=[500] * 100)
    with served(server) as url, client_of(url) as client:
        assert not client.model.grammar
        server.rejections.clear()

        assert not client.model.grammar

    assert server.requests == []


NO_MODEL = [
    {"object": "list", "data": None},
    {"object": "list", "data": []},
    {"object": "list"},
    {"data": [{"object": "model"}]},
    [],
    None,
]


@pytest.mark.parametrize("said", NO_MODEL, ids=str)
def test_a_server_without_a_model_is_unavailable_with_a_reason(said: Any) -> None:
    with remote(FakeServer(models=[said])) as client:
        with pytest.raises(EngineUnavailable, match="names no model"):
            client.info()

        assert client.info().name == "some-model"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_server_gets_the_request_again(status: int) -> None:
    server = FakeServer()
    with remote(server) as client:
        assert client.model
        server.rejections = [status] * 2

        assert client.complete(CompletionRequest(prompt="A colour:")).choices[0].text


def test_a_rejected_request_is_not_retried() -> None:
    server = FakeServer()
    with remote(server) as client:
        assert client.model
        server.rejections = [400]

        with pytest.raises(EngineRefused):
            client.complete(CompletionRequest(prompt="A colour:"))

    assert server.real == []


def test_a_url_without_a_server_is_unavailable() -> None:
    with client_of(f"http://127.0.0.1:{free_port()}", wait_s=0.5) as client, pytest.raises(EngineUnavailable):
        assert client.model


# Notes.


@pytest.mark.parametrize("kind", FOLLOWERS)
def test_a_g_note_reports_that_its_grammar_was_enforced(kind: str) -> None:
    server = made(kind)
    with remote(server) as client:
        note = write(client)

    assert note.verification.faithful, note.text
    assert (note.provenance.grammar_enforced, note.provenance.attempts) == (True, 1)
    assert (note.provenance.model, note.provenance.model_sha256) == ("some-model", None)
    assert "Facts:" not in server.real[-1]["prompt"]


def test_without_grammars_g_puts_the_facts_in_the_prompt_verifies_and_retries() -> None:
    server = FakeServer(texts=[BAD, GOOD])
    with remote(server) as client:
        note = write(client)

    assert note.text == GOOD
    assert note.verification.faithful
    assert (note.provenance.attempts, note.provenance.source) == (2, "llm")
    assert note.provenance.grammar_enforced is False
    for body in server.real:
        assert "Facts: 61-year-old woman; diagnosis melanoma; site back." in body["prompt"]


def test_without_grammars_g_falls_back_if_no_text_is_faithful() -> None:
    server = FakeServer(texts=[BAD])
    with remote(server) as client:
        note = write(client)
        kept = write(client, on_unfaithful="keep")

    assert note.verification.faithful
    assert (note.provenance.attempts, note.provenance.source) == (MAX_ATTEMPTS, "template")
    assert note.provenance.grammar_enforced is False
    assert (kept.text, kept.verification.faithful) == (BAD, False)


def test_a_strategy_without_a_grammar_reports_none() -> None:
    with remote(FakeServer(texts=[GOOD])) as client:
        assert write(client, strategy="P2").provenance.grammar_enforced is None


# Real servers.


@contextmanager
def our_own(model: ScriptedModel) -> Iterator[str]:
    """Our engine's URL while it is served over TCP."""
    port = free_port()
    config = uvicorn.Config(create_engine(model), host="127.0.0.1", port=port, access_log=False, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/v1/models"), timeout_s=30, what="the engine serves")
        yield url
    finally:
        server.should_exit = True
        thread.join()


def test_our_own_engine_serves_as_a_remote_one() -> None:
    model = ScriptedModel()
    with our_own(model) as url, client_of(url) as client:
        info = client.model
        note = write(client)
        client.complete(CompletionRequest(prompt="A colour:", top_k=7, min_p=0.1))

    assert (info.name, info.grammar, info.context_tokens) == ("scripted", True, 100_000)
    assert note.verification.faithful
    assert (note.provenance.grammar_enforced, note.provenance.attempts) == (True, 1)
    assert (model.requests[-1].model, model.requests[-1].top_k, model.requests[-1].min_p) == ("scripted", 7, 0.1)


@contextmanager
def service_with(server: FakeServer, folder: Path) -> Iterator[NoteService]:
    """The whole service over a server of another kind."""
    folder.mkdir()
    with served(server) as url:
        service = NoteService(folder, settings={"NOTEGEN_ENGINE_URL": url, "NOTEGEN_MODEL": "theirs"})
        try:
            service.start()
            yield service
        finally:
            service.stop()


def post(service: NoteService) -> dict[str, Any]:
    """A G note, waited for."""
    body = {"metadata": FACTS, "strategy": "G"}
    answer = httpx.post(f"{service.url}/notes", json=body, headers={"Prefer": "wait=30"}, timeout=40)
    job: dict[str, Any] = answer.json()
    return job


@pytest.mark.parametrize(("status", "reason"), [(400, "context"), (401, "key")])
def test_a_note_that_the_server_rejects_fails_at_once_with_the_reason(
    short_folder: Path, status: int, reason: str
) -> None:
    server = FakeServer(honours="grammar")
    with service_with(server, short_folder / f"rejecting-{status}") as service:
        server.rejections = [status]
        job = post(service)

    assert (job["status"], job["error"]["code"]) == ("failed", EngineRefused.code)
    assert reason in job["error"]["detail"]
    assert server.real == []


def test_the_service_waits_for_a_server_to_load_a_model_and_logs_it(short_folder: Path) -> None:
    server = FakeServer(honours="grammar", models=[{"object": "list", "data": None}] * 3)
    with service_with(server, short_folder / "no-model") as service:
        assert post(service)["status"] == "finished"
        assert service.worker.text().count("names no model") == 1


@pytest.mark.parametrize("honours", ["guided_grammar", None])
def test_the_whole_service_writes_with_a_remote_engine(short_folder: Path, honours: str | None) -> None:
    fake = FakeServer(honours=honours, texts=[BAD, GOOD])
    with service_with(fake, short_folder / f"remote-{honours}") as service:
        assert service.worker.engine_pid() is None
        (note,) = post(service)["notes"]

    assert note["verification"]["faithful"]
    assert note["provenance"]["model"] == "theirs"
    assert note["provenance"]["grammar_enforced"] is (honours is not None)
    assert note["provenance"]["source"] == "llm"


def llama_python() -> Path | None:
    """A Python that has llama.cpp's own server: this one, or the one that DERMNOTE_LLAMA_SERVER_PYTHON names."""
    if find_spec("xllamacpp"):
        return Path(sys.executable)
    named = os.environ.get("DERMNOTE_LLAMA_SERVER_PYTHON")
    return Path(named) if named else None


@pytest.mark.gguf
@pytest.mark.skipif(
    llama_python() is None, reason="no xllamacpp (llama.cpp's server): install it or set DERMNOTE_LLAMA_SERVER_PYTHON"
)
def test_llama_cpps_own_server_enforces_gs_grammar() -> None:
    python = llama_python()
    assert python is not None
    settings = ServerSettings(find_weights("smollm2")[1], slots=1, context_tokens=context_for(1, request_tokens=700))
    with llama_server(settings, python=python) as server, client_of(server.url) as client:
        assert client.model.grammar
        note = write(client)

    assert note.verification.faithful, note.text
    assert (note.provenance.grammar_enforced, note.provenance.attempts) == (True, 1)
    assert note.provenance.source == "llm"
