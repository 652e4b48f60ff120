"""Ask llama.cpp's server for many completions, so many at a time, and measure what that took.

Its native `/completion` is asked, not `/v1/completions`: only that one reports tokens that came from the prompt cache,
and takes the whole sampling chain.
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
# The chain of llama_cpp.Llama, in its order, without the samplers that change nothing at their defaults.
SAMPLERS = ("top_k", "top_p", "min_p", "temperature")
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class PeerRequest:
    """One completion to ask for. `top_k` 0, `top_p` 1 and `min_p` 0 each leave every token in; `grammar`: GBNF."""

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
    """What came of one request. `error` is set where nothing usable came, and then the counts may be 0.

    `sampled_tokens` counts the token that ended the text; `prefilled_tokens`: of the prompt, those that the server
    computed; `cached_tokens`: those that it had. `seconds`: from sending to the answer.
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

    `cpu_s`: the server's, during the batch; `others_cpu_s`: of all that is neither server nor client in that time, so
    a batch with much of it tells of a busy machine; `peak_bytes`: the server's, in its life.
    """

    answers: Sequence[PeerAnswer]
    wall_s: float
    cpu_s: float
    others_cpu_s: float
    peak_bytes: int

    @property
    def errors(self) -> Sequence[str]:
        """What went wrong, one entry for each request that failed."""
        return [answer.error for answer in self.answers if answer.error is not None]

    @property
    def answered_per_s(self) -> float:
        """Requests that were answered, over wall seconds."""
        return (len(self.answers) - len(self.errors)) / self.wall_s

    @property
    def sampled_per_s(self) -> float:
        """Sampled tokens of the answered requests, over wall seconds."""
        return sum(answer.sampled_tokens for answer in self.answers if answer.error is None) / self.wall_s

    @property
    def prefilled_per_s(self) -> float:
        """Prompt tokens that the server computed, over wall seconds."""
        return sum(answer.prefilled_tokens for answer in self.answers if answer.error is None) / self.wall_s


def measure(
    server: ServerProcess, requests: Sequence[PeerRequest], *, concurrency: int, timeout_s: float = TIMEOUT_S
) -> PeerBatch:
    """Ask a running server for all of it, `concurrency` at a time. Raises ServerFailed when it died over that."""
    before, everyone, client, begun = server.usage(), machine_cpu_s(), time.process_time(), time.perf_counter()
    answers = asyncio.run(complete_all(server.url, requests, concurrency=concurrency, timeout_s=timeout_s))
    wall_s, after = time.perf_counter() - begun, server.usage()
    cpu_s = after.cpu_s - before.cpu_s
    others_s = machine_cpu_s() - everyone - cpu_s - (time.process_time() - client)
    return PeerBatch(answers, wall_s=wall_s, cpu_s=cpu_s, others_cpu_s=max(others_s, 0.0), peak_bytes=after.peak_bytes)


async def complete_all(
    url: str, requests: Sequence[PeerRequest], *, concurrency: int, timeout_s: float = TIMEOUT_S
) -> Sequence[PeerAnswer]:
    """An answer for each request, in their order; a request that fails has an answer with an error."""
    turns = asyncio.Semaphore(concurrency)
    # Each request gets a connection of its own turn: a pool that is smaller would time requests out while they wait.
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout_s, trust_env=False) as client:

        async def in_turn(request: PeerRequest) -> PeerAnswer:
            async with turns:
                return await complete(client, request)

        return await asyncio.gather(*(in_turn(request) for request in requests))


async def complete(client: httpx.AsyncClient, request: PeerRequest) -> PeerAnswer:
    """One completion; what fails on the way is the answer's error."""
    begun = time.perf_counter()
    try:
        response = await client.post("/completion", json=request.body())
    except httpx.TransportError as error:
        return PeerAnswer(error=f"{type(error).__name__}: {error}", seconds=time.perf_counter() - begun)
    seconds = time.perf_counter() - begun
    if response.is_error:
        return PeerAnswer(error=f"HTTP {response.status_code}: {_said(response)}", seconds=seconds)
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


class _Refusal(BaseModel):
    """llama.cpp's error body."""

    model_config = ConfigDict(extra="ignore")

    error: _Error


def _said(response: httpx.Response) -> str:
    try:
        return _Refusal.model_validate_json(response.content).error.message
    except ValidationError:
        return response.text[:200]
