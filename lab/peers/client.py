"""Send llama.cpp's server many concurrent completions, and measure time and memory.

Uses the server's native `/completion` rather than `/v1/completions`: only the native route reports how many
tokens came from the prompt cache, and accepts the whole sampling chain.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from lab.peers.process import ServerProcess, machine_cpu_s

TIMEOUT_S = 120.0
# llama_cpp.Llama's chain of samplers in its order, without those that have no effect with their default settings.
SAMPLERS = ("top_k", "top_p", "min_p", "temperature")
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class PeerRequest:
    """One completion request. `top_k` 0, `top_p` 1 and `min_p` 0 each disable that filter; `grammar`: GBNF."""

    prompt: str
    max_tokens: int
    temperature: float
    seed: int
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    stop: tuple[str, ...] = ()
    grammar: str | None = None

    def body(self) -> dict[str, Any]:
        """The JSON of `/completion`."""
        return {
            "prompt": self.prompt,
            "n_predict": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "seed": self.seed,
            "stop": list(self.stop),
            "samplers": list(SAMPLERS),
            "cache_prompt": True,
            "stream": False,
        } | ({} if self.grammar is None else {"grammar": self.grammar})


@dataclass(frozen=True)
class PeerAnswer:
    """The result of one request. If `error` is set, the counts may be 0.

    `sampled_tokens` includes the token that ended the text; `prefilled_tokens`: prompt tokens that the server computed;
    `cached_tokens`: prompt tokens from its cache. `seconds`: from sending the request to the answer.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    sampled_tokens: int = 0
    prefilled_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class PeerBatch:
    """The answers in the order of the requests.

    `cpu_s`: CPU time of the server during the batch; `others_cpu_s`: CPU time of all other processes except this
    client in the same period (high on a busy machine); `peak_bytes`: peak memory of the server since its start.
    """

    answers: Sequence[PeerAnswer]
    wall_s: float
    cpu_s: float
    others_cpu_s: float
    peak_bytes: int

    @property
    def errors(self) -> Sequence[str]:
        """The errors of all failed requests."""
        return [answer.error for answer in self.answers if answer.error is not None]

    @property
    def answered_per_s(self) -> float:
        """Answered requests per wall second."""
        return (len(self.answers) - len(self.errors)) / self.wall_s

    @property
    def sampled_per_s(self) -> float:
        """Sampled tokens of the answered requests per wall second."""
        return sum(answer.sampled_tokens for answer in self.answers if answer.error is None) / self.wall_s

    @property
    def prefilled_per_s(self) -> float:
        """Prompt tokens computed by the server per wall second."""
        return sum(answer.prefilled_tokens for answer in self.answers if answer.error is None) / self.wall_s


def measure(
    server: ServerProcess, requests: Sequence[PeerRequest], *, concurrency: int, timeout_s: float = TIMEOUT_S
) -> PeerBatch:
    """Send all requests to a running server, `concurrency` at a time. Raises ServerFailed if it dies."""
    before, everyone, client, started = server.usage(), machine_cpu_s(), time.process_time(), time.perf_counter()
    answers = asyncio.run(complete_all(server.url, requests, concurrency=concurrency, timeout_s=timeout_s))
    wall_s, after = time.perf_counter() - started, server.usage()
    cpu_s = after.cpu_s - before.cpu_s
    others_s = machine_cpu_s() - everyone - cpu_s - (time.process_time() - client)
    return PeerBatch(answers, wall_s=wall_s, cpu_s=cpu_s, others_cpu_s=max(others_s, 0.0), peak_bytes=after.peak_bytes)


async def complete_all(
    url: str, requests: Sequence[PeerRequest], *, concurrency: int, timeout_s: float = TIMEOUT_S
) -> Sequence[PeerAnswer]:
    """The answers in the order of the requests; a failed request has an answer with an error."""
    turns = asyncio.Semaphore(concurrency)
    # With a smaller pool, requests could time out while they wait for a connection.
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout_s, trust_env=False) as client:

        async def in_turn(request: PeerRequest) -> PeerAnswer:
            async with turns:
                return await complete(client, request)

        return await asyncio.gather(*(in_turn(request) for request in requests))


async def complete(client: httpx.AsyncClient, request: PeerRequest) -> PeerAnswer:
    """One completion; a transport or server error becomes the answer's error."""
    started = time.perf_counter()
    try:
        response = await client.post("/completion", json=request.body())
    except httpx.TransportError as error:
        return PeerAnswer(error=f"{type(error).__name__}: {error}", seconds=time.perf_counter() - started)
    seconds = time.perf_counter() - started
    if response.is_error:
        return PeerAnswer(error=f"HTTP {response.status_code}: {_error_message(response)}", seconds=seconds)
    try:
        completion = _Completion.model_validate_json(response.content)
    except ValidationError as error:
        return PeerAnswer(error=f"not a completion: {error}", seconds=seconds)
    return completion.answer(seconds=seconds)


class _Timings(BaseModel):
    model_config = ConfigDict(extra="ignore")

    cache_n: int
    prompt_n: int


class _Completion(BaseModel):
    """The server's answer. `stop_type`: "eos", "word" (a stop text), "limit" (n_predict or the context) or "none"."""

    model_config = ConfigDict(extra="ignore")

    content: str
    tokens_predicted: int
    truncated: bool
    stop_type: Literal["eos", "word", "limit", "none"]
    timings: _Timings

    def answer(self, *, seconds: float) -> PeerAnswer:
        return PeerAnswer(
            text=self.content,
            finish_reason="stop" if self.stop_type in ("eos", "word") else "length",
            sampled_tokens=self.tokens_predicted,
            prefilled_tokens=self.timings.prompt_n,
            cached_tokens=self.timings.cache_n,
            seconds=seconds,
            error="the context was too small for prompt and answer" if self.truncated else None,
        )


class _Error(BaseModel):
    message: str


class _ErrorBody(BaseModel):
    """llama.cpp's error body."""

    model_config = ConfigDict(extra="ignore")

    error: _Error


def _error_message(response: httpx.Response) -> str:
    try:
        return _ErrorBody.model_validate_json(response.content).error.message
    except ValidationError:
        return response.text[:200]
