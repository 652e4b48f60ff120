"""The worker's client of the engine: OpenAI completions over a Unix socket, or over HTTP to a remote server."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import ModelInfo
from dermnote_contracts.problems import EngineCrashed, EngineRefused, EngineUnavailable
from dermnote_http.logging import REQUEST_ID_HEADER, request_id
from dermnote_notegen.worker.capabilities import Capabilities, ProbeAnswer, probe

log = logging.getLogger(__name__)
RETRY_PAUSE_S = 0.2
# A failing engine still answers for a moment; a client waits this long so that its retry reaches the new engine.
RESTART_PAUSE_S = 2
# Attempts per request: first together with other requests; if the engine crashes each time, exclusively; if it crashes
# each time again, the request is given up.
SHARED_ATTEMPTS = 2
EXCLUSIVE_ATTEMPTS = 2
PROBE_TIMEOUT_S = 60
PROBE_ATTEMPTS = 3
PROBE_AGAIN_S = 300
# Status codes of a server that may accept the request later: it is loading, overloaded, or a proxy can't reach it.
RETRYABLE = {429, 502, 503, 504}
# Status code -> what the rejection means. The server's own message is never passed on: it may quote the prompt.
REASONS = {
    400: "it can't parse the request, or the prompt doesn't fit its context",
    401: "it requires a key",
    403: "it denies access",
    404: "it doesn't have this model, or has no /v1/completions",
    413: "the request is too large for it",
    422: "prompt and answer don't fit its context, or it can't parse the grammar",
}
# The connection broke after it was established, so the engine may have failed on the request. ConnectError is not
# among these: it means that the engine is not listening yet.
DROPPED = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


class EngineLock:
    """Reader-writer lock on the engine, across a node's processes: requests share it, or one holds it exclusively.

    Made of two file locks next to the engine's socket, which the kernel releases when their holder exits. A shared
    request holds the gate only while it acquires the floor, and the floor while it runs. An exclusive request holds
    both; since it waits for the floor with the gate closed, a stream of shared requests can't starve it.
    """

    def __init__(self, socket: Path) -> None:
        self._gate = socket.with_name(f"{socket.name}.gate")
        self._floor = socket.with_name(f"{socket.name}.floor")

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other requests; blocks while one holds it alone or waits to. Costs 40 µs."""
        with ExitStack() as floor:
            with _locked(self._gate, fcntl.LOCK_SH):
                floor.enter_context(_locked(self._floor, fcntl.LOCK_SH))
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold it alone: blocks until current requests are done and keeps out later ones."""
        with _locked(self._gate, fcntl.LOCK_EX), _locked(self._floor, fcntl.LOCK_EX):
            yield


@contextmanager
def _locked(path: Path, operation: int) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)  # opened per lock, so that threads lock separately too
    try:
        fcntl.flock(file, operation)
        yield
    finally:
        os.close(file)


class RequestLost(Exception):
    """Our engine failed while it ran the request. `pause_s`: how long to wait before a retry."""

    def __init__(self, message: str, *, pause_s: float) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class _RemoteModel(BaseModel):
    """A model in `/v1/models`: OpenAI's fields, and fields that servers (including ours) add."""

    model_config = ConfigDict(extra="allow")

    id: str
    owned_by: str | None = None
    context_tokens: int | None = None
    max_model_len: int | None = None


class _Models(BaseModel):
    data: Annotated[list[_RemoteModel], Field(min_length=1)]


class EngineClient:
    """A client of one engine. `complete` retries for up to `wait_s` while the engine restarts.

    `probe_again_s`: after how many seconds a remote server whose answers were inconclusive is probed again.
    """

    def __init__(
        self,
        *,
        socket: Path,
        url: str | None = None,
        model_name: str = "",
        wait_s: float = 90,
        probe_again_s: float = PROBE_AGAIN_S,
    ) -> None:
        self._remote = url is not None
        self._socket = socket
        self._address = url or str(socket)
        self._model_name = model_name
        self._wait_s = wait_s
        self._probe_again_s = probe_again_s
        self._lock = EngineLock(socket)
        self._info: ModelInfo | None = None
        self._capabilities: Capabilities | None = None
        self._client: httpx.Client | None = None

    @property
    def _http(self) -> httpx.Client:
        """This process's connections; close them before a fork."""
        if self._client is None:
            transport = None if self._remote else httpx.HTTPTransport(uds=str(self._socket), verify=False)
            self._client = httpx.Client(
                transport=transport, base_url=self._address if self._remote else "http://engine"
            )
        return self._client

    def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def model(self) -> ModelInfo:
        """The engine's model and what it supports; read once, and again after an inconclusive probe.

        Waits for an engine that is restarting; raises EngineUnavailable after `wait_s`.
        """
        if self._info is None or (self._capabilities is not None and self._capabilities.expired):
            deadline = time.monotonic() + self._wait_s
            while True:
                try:
                    self._info = self.info()
                    break
                except EngineUnavailable:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(RETRY_PAUSE_S)
        return self._info

    def info(self) -> ModelInfo:
        """Read the engine's model now; raises EngineUnavailable if it doesn't answer or names no model."""
        try:
            answer = self._http.get("/v1/models", timeout=5)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"no engine answers at {self._address}") from error
        try:
            served = _Models.model_validate_json(answer.content).data[0]
            if not self._remote:
                return ModelInfo.model_validate({"name": served.id, **served.model_dump()})
        except ValidationError as error:
            raise EngineUnavailable(f"the server at {self._address} names no model in /v1/models") from error
        name = self._model_name or served.id
        return ModelInfo(
            name=name,
            sha256=None,
            context_tokens=served.context_tokens or served.max_model_len or 0,
            engine=served.owned_by or "openai-compatible",
            grammar=self._probed(name).grammar_field is not None,
        )

    def _probed(self, name: str) -> Capabilities:
        if self._capabilities is None or self._capabilities.expired:
            self._capabilities = probe(self._send_probe, model=name, retry_after_s=self._probe_again_s)
        return self._capabilities

    def _send_probe(self, body: dict[str, Any]) -> ProbeAnswer:
        """Send a probe, and repeat it after a 5xx. Raises EngineUnavailable if the server isn't ready (RETRYABLE)."""
        for _ in range(PROBE_ATTEMPTS):
            try:
                answer = self._http.post("/v1/completions", json=body, timeout=PROBE_TIMEOUT_S)
                if answer.status_code == httpx.codes.OK:
                    return ProbeAnswer(_parse(answer).choices[0].text.strip())
            except (httpx.TransportError, EngineRefused) as error:
                raise EngineUnavailable(f"no engine answers at {self._address}") from error
            if answer.status_code in RETRYABLE:
                raise EngineUnavailable(f"HTTP {answer.status_code} from the engine")
            if not answer.is_server_error:
                return ProbeAnswer(None)
            time.sleep(RETRY_PAUSE_S)
        return ProbeAnswer(None, conclusive=False)

    def complete(self, request: CompletionRequest) -> CompletionResponse:
        """One completion. A failed connection, a 429 and a 5xx are retried until `wait_s` is over.

        After our own engine has failed twice on a request, the request holds it exclusively, so that no others fail.
        Raises EngineRefused for a request that the engine rejects, EngineCrashed for one on which it keeps failing,
        EngineUnavailable after `wait_s`.
        """
        timeout_s = request.deadline_s + 5
        if self._remote:
            name = self.model.name
            return self._post(self._probed(name).body(request, model=name), timeout_s=timeout_s)
        body = request.model_dump(mode="json", exclude_defaults=True)
        for attempt in range(SHARED_ATTEMPTS + EXCLUSIVE_ATTEMPTS):
            exclusive = attempt >= SHARED_ATTEMPTS
            with self._lock.exclusive() if exclusive else self._lock.shared():
                try:
                    return self._post(body, timeout_s=timeout_s)
                except RequestLost as error:
                    log.warning("the engine failed during %s request: %s", "an exclusive" if exclusive else "a", error)
                    time.sleep(error.pause_s)
        attempts = SHARED_ATTEMPTS + EXCLUSIVE_ATTEMPTS
        raise EngineCrashed(f"{attempts} times, {EXCLUSIVE_ATTEMPTS} of them without other requests")

    def _post(self, body: dict[str, Any], *, timeout_s: float) -> CompletionResponse:
        deadline = time.monotonic() + self._wait_s
        headers = {REQUEST_ID_HEADER: identifier} if (identifier := request_id()) else {}
        while True:
            try:
                answer = self._http.post("/v1/completions", json=body, timeout=timeout_s, headers=headers)
            except httpx.TransportError as error:
                if not self._remote and isinstance(error, DROPPED):
                    raise RequestLost("the connection was dropped", pause_s=RETRY_PAUSE_S) from error
                if time.monotonic() > deadline:
                    raise EngineUnavailable(f"no engine answers at {self._address}") from error
            else:
                if answer.status_code == httpx.codes.OK:
                    return _parse(answer)
                if answer.is_client_error and answer.status_code not in RETRYABLE:
                    reason = REASONS.get(answer.status_code)
                    raise EngineRefused(
                        f"HTTP {answer.status_code} from the engine" + (f": {reason}" if reason else "")
                    )
                if not self._remote and _lost_request(answer):
                    raise RequestLost(f"HTTP {answer.status_code}", pause_s=RESTART_PAUSE_S)
                if time.monotonic() > deadline:
                    raise EngineUnavailable(f"HTTP {answer.status_code} from the engine")
            time.sleep(RETRY_PAUSE_S)


def _lost_request(answer: httpx.Response) -> bool:
    """True if our engine had started the request and failed, through its own fault or the request's."""
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return EngineUnavailable.code in answer.text  # EngineOverloaded is a 503 too
    return answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR


def _parse(answer: httpx.Response) -> CompletionResponse:
    try:
        return CompletionResponse.model_validate_json(answer.content)
    except ValidationError as error:
        raise EngineRefused("the engine's answer is not a completion") from error
