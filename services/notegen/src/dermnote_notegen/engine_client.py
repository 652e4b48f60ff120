"""The worker's way to the engine: OpenAI completions over a Unix socket, or over HTTP to another server."""

import os
import time
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import ModelInfo
from dermnote_contracts.problems import EngineRefused, EngineUnavailable

PAUSE_S = 0.2
OURS_ONLY = {"grammar", "deterministic", "deadline_s"}


class EngineClient:
    """One engine. `complete` waits for an engine that is being restarted, up to `wait_s`, and asks again."""

    def __init__(self, *, socket: Path, url: str | None = None, model_name: str = "", wait_s: float = 90) -> None:
        self._remote = url is not None
        self._where = url or str(socket)
        self._model_name = model_name
        self._wait_s = wait_s
        self._info: ModelInfo | None = None
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
    def model(self) -> tuple[str, str | None]:
        """(name, sha256) of the weights; asks the engine once."""
        if self._info is None:
            self._info = self.info()
        return self._info.name, self._info.sha256

    def info(self) -> ModelInfo:
        """The engine's model; raises EngineUnavailable when it doesn't answer now."""
        try:
            answer = self._http.get("/v1/models", timeout=5)
            answer.raise_for_status()
            entry: dict[str, Any] = answer.json()["data"][0]
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            raise EngineUnavailable(f"no engine answers at {self._where}") from error
        return ModelInfo(
            name=self._model_name if self._remote and self._model_name else str(entry["id"]),
            sha256=entry.get("sha256"),
            context_tokens=int(entry.get("context_tokens") or 0),
            engine=str(entry.get("engine") or "openai-compatible"),
        )

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
        """One completion. A connection that fails or a 5xx is tried again until `wait_s` is over.

        Raises EngineRefused for a request that the engine will never take, EngineUnavailable when time is up.
        """
        body = request.model_dump(mode="json", exclude=OURS_ONLY if self._remote else set())
        if self._remote:
            body["model"] = self.model[0]
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
                if answer.is_client_error:
                    raise EngineRefused(f"HTTP {answer.status_code} from the engine")
                if time.monotonic() > ends:
                    raise EngineUnavailable(f"HTTP {answer.status_code} from the engine")
            time.sleep(PAUSE_S)


def _parse(answer: httpx.Response) -> CompletionResponse:
    try:
        return CompletionResponse.model_validate_json(answer.content)
    except ValidationError as error:
        raise EngineRefused("the engine's answer is not a completion") from error
