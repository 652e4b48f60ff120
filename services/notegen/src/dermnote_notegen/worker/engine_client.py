"""The worker's way to the engine: OpenAI completions over a Unix socket, or over HTTP to another server."""

import logging
import os
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import ModelInfo
from dermnote_contracts.problems import DermnoteError, EngineRefused, EngineUnavailable
from dermnote_notegen.worker.capabilities import GRAMMAR_FIELDS, MORE_SAMPLING, Abilities, Probed, probe
from dermnote_notegen.worker.engine_lock import Company

log = logging.getLogger(__name__)
PAUSE_S = 0.2
# An engine whose thread has broken answers for a moment more; whoever it answers so asks a new engine next time.
SETTLE_S = 2
# A request that the engine broke with twice goes alone from then on; where that breaks it twice more it is given up.
BREAKS_IN_COMPANY = 2
BREAKS_ALONE = 2
PROBE_S = 60
PROBES = 3
PROBE_AGAIN_S = 300
# What only our own engine takes; a grammar travels under the name that the probe found.
OURS_ONLY = {"grammar", "segments", "deterministic", "deadline_s"}
# A server that is loading its model, has too much to do, or is away behind a proxy: it may well take the request later.
NOT_NOW = {429, 502, 503, 504}
# What a refusal means. The server's own words are never passed on: they may repeat the prompt.
REASONS = {
    400: "it can't read the request, or the prompt doesn't fit its context",
    401: "it wants a key",
    403: "it refuses access",
    404: "it has no such model, or nothing under /v1/completions",
    413: "the request is too large for it",
    422: "prompt and answer don't fit its context, or it can't read the grammar",
}
# The engine had the request and is gone; a connection that never came about is an engine that isn't there yet.
DROPPED = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


class EngineCrashed(DermnoteError):
    """The engine broke each time that it had this request, also when it had no other."""

    code, status, title = "engine-crashed", 502, "The language model's engine broke each time it had this request"


class EngineBroke(Exception):
    """Our engine broke with the request in hand, by its fault or another's. `pause_s`: when it can be asked again."""

    def __init__(self, what: str, *, pause_s: float) -> None:
        super().__init__(what)
        self.pause_s = pause_s


class _Served(BaseModel):
    """A model in `/v1/models`: OpenAI's fields, and what servers (ours among them) say beside them."""

    model_config = ConfigDict(extra="allow")

    id: str
    owned_by: str | None = None
    context_tokens: int | None = None
    max_model_len: int | None = None


class _Models(BaseModel):
    data: Annotated[list[_Served], Field(min_length=1)]


class EngineClient:
    """One engine. `complete` waits for an engine that is being restarted, up to `wait_s`, and asks again.

    `probe_again_s`: when a remote server is probed anew whose answers left unsure what it can do.
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
        self._where = url or str(socket)
        self._model_name = model_name
        self._wait_s = wait_s
        self._probe_again_s = probe_again_s
        self._company = Company(socket)
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
        """The model behind the engine and what it can do; asked once, and again where the answer left it unsure.

        Waits for an engine that is being restarted; raises EngineUnavailable after `wait_s`.
        """
        if self._info is None or (self._abilities is not None and time.monotonic() > self._abilities.good_until):
            self._info = self.wait_ready()
        return self._info

    def info(self) -> ModelInfo:
        """The engine's model; raises EngineUnavailable when it doesn't answer now, or names none."""
        try:
            answer = self._http.get("/v1/models", timeout=5)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"no engine answers at {self._where}") from error
        try:
            served = _Models.model_validate_json(answer.content).data[0]
            if not self._remote:
                return ModelInfo.model_validate({"name": served.id, **served.model_dump()})
        except ValidationError as error:
            raise EngineUnavailable(f"what answers at {self._where} names no model in /v1/models") from error
        name = self._model_name or served.id
        return ModelInfo(
            name=name,
            sha256=None,
            context_tokens=served.context_tokens or served.max_model_len or 0,
            engine=served.owned_by or "openai-compatible",
            grammar=self._probed(name).grammar_field is not None,
        )

    def _probed(self, name: str) -> Abilities:
        if self._abilities is None or time.monotonic() > self._abilities.good_until:
            self._abilities = probe(self._completes, model=name, again_s=self._probe_again_s)
        return self._abilities

    def _completes(self, body: dict[str, Any]) -> Probed:
        """What the server makes of a probe; a 5xx is asked again. Raises EngineUnavailable where it can't say yet."""
        for _ in range(PROBES):
            try:
                answer = self._http.post("/v1/completions", json=body, timeout=PROBE_S)
                if answer.status_code == httpx.codes.OK:
                    return Probed(_parse(answer).choices[0].text.strip())
            except (httpx.TransportError, EngineRefused) as error:
                raise EngineUnavailable(f"no engine answers at {self._where}") from error
            if answer.status_code in NOT_NOW:
                raise EngineUnavailable(f"HTTP {answer.status_code} from the engine")
            if not answer.is_server_error:
                return Probed(None)
            time.sleep(PAUSE_S)
        return Probed(None, sure=False)

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        if not self._remote:
            return request.model_dump(mode="json", exclude_defaults=True)
        name = self.model.name
        known = self._probed(name)
        left_out = OURS_ONLY | (set() if known.more_sampling else set(MORE_SAMPLING))
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

        Where our own engine broke twice with the request in hand it is asked alone, so that it takes no other along.
        Raises EngineRefused for a request that the engine will never take, EngineCrashed for one that it breaks with,
        EngineUnavailable when time is up.
        """
        body = self._body(request)
        timeout_s = request.deadline_s + 5
        if self._remote:
            return self._answered(body, timeout_s=timeout_s)
        for breaks in range(BREAKS_IN_COMPANY + BREAKS_ALONE):
            alone = breaks >= BREAKS_IN_COMPANY
            with self._company.alone() if alone else self._company.joined():
                try:
                    return self._answered(body, timeout_s=timeout_s)
                except EngineBroke as broke:
                    log.warning("the engine broke with a request in hand%s: %s", ", its only one" * alone, broke)
                    time.sleep(broke.pause_s)
        raise EngineCrashed(f"{BREAKS_IN_COMPANY + BREAKS_ALONE} times, {BREAKS_ALONE} of them with no other request")

    def _answered(self, body: dict[str, Any], *, timeout_s: float) -> CompletionResponse:
        ends = time.monotonic() + self._wait_s
        while True:
            try:
                answer = self._http.post("/v1/completions", json=body, timeout=timeout_s)
            except httpx.TransportError as error:
                if not self._remote and isinstance(error, DROPPED):
                    raise EngineBroke("the connection was dropped", pause_s=PAUSE_S) from error
                if time.monotonic() > ends:
                    raise EngineUnavailable(f"no engine answers at {self._where}") from error
            else:
                if answer.status_code == httpx.codes.OK:
                    return _parse(answer)
                if answer.is_client_error and answer.status_code not in NOT_NOW:
                    raise _refusal(answer)
                if not self._remote and _has_lost_it(answer):
                    raise EngineBroke(f"HTTP {answer.status_code}", pause_s=SETTLE_S)
                if time.monotonic() > ends:
                    raise EngineUnavailable(f"HTTP {answer.status_code} from the engine")
            time.sleep(PAUSE_S)


def _refusal(answer: httpx.Response) -> EngineRefused:
    reason = REASONS.get(answer.status_code)
    return EngineRefused(f"HTTP {answer.status_code} from the engine" + (f": {reason}" if reason else ""))


def _has_lost_it(answer: httpx.Response) -> bool:
    """Whether our engine says that it took the request and lost it, by a fault of its own or of the request."""
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return EngineUnavailable.code in answer.text  # and not that it has too much to do
    return answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR


def _parse(answer: httpx.Response) -> CompletionResponse:
    try:
        return CompletionResponse.model_validate_json(answer.content)
    except ValidationError as error:
        raise EngineRefused("the engine's answer is not a completion") from error
