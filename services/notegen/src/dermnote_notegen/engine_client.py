"""The worker's way to the engine: OpenAI completions over a Unix socket, or over HTTP to another server."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import ModelInfo
from dermnote_contracts.problems import EngineRefused, EngineUnavailable

PAUSE_S = 0.2
PROBE_S = 60
# What only our own engine takes; a grammar travels under the name that the probe found.
OURS_ONLY = {"grammar", "segments", "deterministic", "deadline_s"}
MORE_SAMPLING = {"top_k", "min_p"}
# How servers are told of a grammar: llama-server, vLLM of before 2025 (and SGLang's OpenAI dialect), vLLM.
GRAMMAR_FIELDS: dict[str, Callable[[str], Any]] = {
    "grammar": lambda grammar: grammar,
    "guided_grammar": lambda grammar: grammar,
    "structured_outputs": lambda grammar: {"grammar": grammar},
}
# No model says this by itself: who answers it follows grammars.
PROBE_TEXT = "zxqj7"
# A server that is loading its model, has too much to do, or is away behind a proxy: it may well take the request later.
NOT_NOW = {429, 502, 503, 504}


@dataclass(frozen=True)
class Abilities:
    """What a remote server was found to take: the field of a grammar, None where it follows none; top_k and min_p."""

    grammar_field: str | None
    more_sampling: bool


class EngineClient:
    """One engine. `complete` waits for an engine that is being restarted, up to `wait_s`, and asks again."""

    def __init__(self, *, socket: Path, url: str | None = None, model_name: str = "", wait_s: float = 90) -> None:
        self._remote = url is not None
        self._where = url or str(socket)
        self._model_name = model_name
        self._wait_s = wait_s
        self._info: ModelInfo | None = None
        self._abilities: Abilities | None = None
        self._socket = None if url else str(socket)
        self._base_url = url or "http://engine"
        self._client: httpx.Client | None = None
        self._client_pid = 0

    @property
    def _http(self) -> httpx.Client:
        """This process' own connections: a forked child must not share its parent's."""
        if self._client is None or self._client_pid != os.getpid():
            transport = httpx.HTTPTransport(uds=self._socket, verify=False) if self._socket else None
            self._client = httpx.Client(transport=transport, base_url=self._base_url)
            self._client_pid = os.getpid()
        return self._client

    def close(self) -> None:
        """Close the connections of this process."""
        if self._client is not None and self._client_pid == os.getpid():
            self._client.close()

    @property
    def model(self) -> ModelInfo:
        """The model behind the engine and what it can do; asks once."""
        if self._info is None:
            self._info = self.info()
        return self._info

    def info(self) -> ModelInfo:
        """The engine's model; raises EngineUnavailable when it doesn't answer now."""
        try:
            answer = self._http.get("/v1/models", timeout=5)
            answer.raise_for_status()
            entry: dict[str, Any] = answer.json()["data"][0]
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            raise EngineUnavailable(f"no engine answers at {self._where}") from error
        if not self._remote:
            return ModelInfo.model_validate({"name": entry["id"], **entry})
        name = self._model_name or str(entry["id"])
        return ModelInfo(
            name=name,
            sha256=None,
            context_tokens=int(entry.get("context_tokens") or entry.get("max_model_len") or 0),
            engine=str(entry.get("owned_by") or "openai-compatible"),
            grammar=self._probed(name).grammar_field is not None,
        )

    def _probed(self, name: str) -> Abilities:
        """Asks the server once for a text that only a grammar gives, under each name that servers know one by."""
        if self._abilities is None:
            body = {"model": name, "prompt": "Say a word:", "max_tokens": 8, "temperature": 0.0}
            more = self._completes(body | {"top_k": 40, "min_p": 0.05}) is not None
            grammar = f'root ::= "{PROBE_TEXT}"'
            held = (
                field
                for field, value in GRAMMAR_FIELDS.items()
                if self._completes(body | {field: value(grammar)}) == PROBE_TEXT
            )
            self._abilities = Abilities(next(held, None), more)
        return self._abilities

    def _completes(self, body: dict[str, Any]) -> str | None:
        """The answer to a probe; None where the server refuses it. Raises EngineUnavailable where it can't say yet."""
        try:
            answer = self._http.post("/v1/completions", json=body, timeout=PROBE_S)
            if answer.status_code in NOT_NOW:
                raise EngineUnavailable(f"HTTP {answer.status_code} from the engine")
            return _parse(answer).choices[0].text.strip() if answer.status_code == httpx.codes.OK else None
        except (httpx.TransportError, EngineRefused) as error:
            raise EngineUnavailable(f"no engine answers at {self._where}") from error

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        if not self._remote:
            return request.model_dump(mode="json", exclude_defaults=True)
        name = self.model.name
        known = self._probed(name)
        left_out = OURS_ONLY | (set() if known.more_sampling else MORE_SAMPLING)
        body = request.model_dump(mode="json", exclude=left_out) | {"model": name}
        if request.grammar is not None and known.grammar_field is not None:
            body[known.grammar_field] = GRAMMAR_FIELDS[known.grammar_field](request.grammar)
        return body

    def wait_ready(self) -> ModelInfo:
        """Block until the engine has its model; raises EngineUnavailable after `wait_s`."""
        ends = time.monotonic() + self._wait_s
        while True:
            try:
                self._info = self.info()
            except EngineUnavailable:
                if time.monotonic() > ends:
                    raise
                time.sleep(PAUSE_S)
            else:
                return self._info

    def complete(self, request: CompletionRequest) -> CompletionResponse:
        """One completion. A connection that fails, a 429 or a 5xx is tried again until `wait_s` is over.

        Raises EngineRefused for a request that the engine will never take, EngineUnavailable when time is up.
        """
        body = self._body(request)
        ends = time.monotonic() + self._wait_s
        while True:
            try:
                answer = self._http.post("/v1/completions", json=body, timeout=request.deadline_s + 5)
            except httpx.TransportError as error:
                if time.monotonic() > ends:
                    raise EngineUnavailable(f"no engine answers at {self._where}") from error
            else:
                if answer.status_code == httpx.codes.OK:
                    return _parse(answer)
                if answer.is_client_error and answer.status_code not in NOT_NOW:
                    raise EngineRefused(f"HTTP {answer.status_code} from the engine")
                if time.monotonic() > ends:
                    raise EngineUnavailable(f"HTTP {answer.status_code} from the engine")
            time.sleep(PAUSE_S)


def _parse(answer: httpx.Response) -> CompletionResponse:
    try:
        return CompletionResponse.model_validate_json(answer.content)
    except ValidationError as error:
        raise EngineRefused("the engine's answer is not a completion") from error
