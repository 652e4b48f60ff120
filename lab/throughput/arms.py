"""Runs one round of an arm (our engine, llama.cpp's server, plain Llama): cold start, requests, verification."""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dermnote_contracts.completions import CompletionResponse
from dermnote_notegen.verify import Verifier
from dermnote_notegen.worker import writer
from dermnote_notegen.writing.strategies import note_facts
from lab.peers.client import PeerAnswer, PeerBatch, measure
from lab.peers.llama_server import ServerSettings
from lab.peers.plain_llama import PlainSettings, plain_llama
from lab.peers.process import ServerProcess, llama_server, server_process
from lab.throughput.requests import BenchRequest, peer_request

REQUEST_TOKENS = 512  # the longest prompt with its completion has 501 tokens
ENGINE_READY_S = 300  # the first start converts the weights


@dataclass(frozen=True)
class Text:
    """A generated text. `sampled`: tokens sampled from logits, not forced by a grammar."""

    text: str
    finished: bool
    sampled: int


@dataclass(frozen=True)
class Run:
    """The result of a round. `processed`: decoded tokens, with prompts; `faithful`: texts that pass the verifier."""

    arm: str
    notes: int
    seconds: float
    sampled: int
    processed: int
    faithful: int
    failed: int
    peak_mib: float

    @property
    def notes_per_s(self) -> float:
        """Answered notes per wall second."""
        return (self.notes - self.failed) / self.seconds

    @property
    def faithful_per_s(self) -> float:
        """Notes per wall second that pass the verifier at the first attempt."""
        return self.faithful / self.seconds

    @property
    def sampled_per_s(self) -> float:
        """Sampled tokens per wall second."""
        return self.sampled / self.seconds


@contextmanager
def our_engine(slots: int, *, folder: Path) -> Iterator[tuple[ServerProcess, Path]]:
    """Run the engine with default settings; yields process and socket once the weights are converted and loaded."""
    socket = folder / f"engine-{slots}.sock"
    environment = {"NOTEGEN_ENGINE_SOCKET": str(socket), "NOTEGEN_SLOTS": str(slots)}
    command = [sys.executable, "-c", "from dermnote_notegen.engine.server import main; main()"]
    with server_process(
        command,
        url="http://engine",
        socket_path=socket,
        environment=environment,
        healthy="/v1/models",
        ready_s=ENGINE_READY_S,
    ) as process:
        yield process, socket


def complete_with_ours(
    socket: Path, batch: Sequence[BenchRequest], *, concurrency: int
) -> tuple[list[CompletionResponse | None], float]:
    """Send the batch to our engine; returns (answers, None for a failed request; wall seconds)."""
    started = time.perf_counter()
    answers = asyncio.run(_complete_all(socket, batch, concurrency=concurrency))
    return answers, time.perf_counter() - started


async def _complete_all(
    socket: Path, batch: Sequence[BenchRequest], *, concurrency: int
) -> list[CompletionResponse | None]:
    turns = asyncio.Semaphore(concurrency)
    transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=600) as client:

        async def one(request: BenchRequest) -> CompletionResponse | None:
            async with turns:
                body = request.completion.model_dump(mode="json", exclude_defaults=True)
                answer = await client.post("/v1/completions", json=body)
            if answer.status_code != httpx.codes.OK:
                return None
            return CompletionResponse.model_validate_json(answer.content)

        return list(await asyncio.gather(*(one(request) for request in batch)))


def queued(slots: int) -> int:
    """Concurrent requests of an arm: a quarter more than slots, so that no slot waits for the client."""
    return slots + max(1, slots // 4)


def run_ours(arm: str, batch: Sequence[BenchRequest], *, slots: int, folder: Path, verifier: Verifier) -> Run:
    """Run a batch on our engine after a cold start."""
    with our_engine(slots, folder=folder) as (process, socket):
        before = decoded(socket)
        answers, seconds = complete_with_ours(socket, batch, concurrency=queued(slots))
        processed = decoded(socket) - before
        peak = process.usage().peak_bytes
    texts = [None if answer is None else _text(answer) for answer in answers]
    return verified_run(arm, batch, texts, seconds=seconds, processed=processed, peak=peak, verifier=verifier)


def _text(answer: CompletionResponse) -> Text:
    choice, usage = answer.choices[0], answer.usage
    return Text(choice.text, choice.finish_reason == "stop", usage.completion_tokens - usage.forced_tokens)


def decoded(socket: Path) -> int:
    """Tokens that the engine has decoded so far, according to its metrics."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://engine") as client:
        lines = client.get("/metrics").text.splitlines()
    prefix = 'dermnote_engine_tokens_total{kind="decoded"} '
    return int(float(next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), "0")))


def run_server(arm: str, batch: Sequence[BenchRequest], *, settings: ServerSettings, verifier: Verifier) -> Run:
    """Run a batch on llama.cpp's server after a cold start. Raises ServerFailed."""
    requests = [peer_request(request.completion) for request in batch]
    with llama_server(settings) as server:
        answered = measure(server, requests, concurrency=queued(settings.slots))
    return _peers_run(arm, batch, answered, verifier=verifier)


def _peers_run(arm: str, batch: Sequence[BenchRequest], answered: PeerBatch, *, verifier: Verifier) -> Run:
    return verified_run(
        arm,
        batch,
        [server_text(answer) for answer in answered.answers],
        seconds=answered.wall_s,
        processed=sum(answer.prefilled_tokens + answer.sampled_tokens for answer in answered.answers),
        peak=answered.peak_bytes,
        verifier=verifier,
    )


def server_text(answer: PeerAnswer) -> Text | None:
    """The text of a server's answer; None for a failed request."""
    if answer.error is not None:
        return None
    return Text(answer.text, answer.finish_reason == "stop", answer.sampled_tokens)


def run_plain(arm: str, batch: Sequence[BenchRequest], *, settings: PlainSettings, verifier: Verifier) -> Run:
    """Run a batch on plain llama_cpp.Llama, one request at a time; it reuses the prefix shared with the last prompt."""
    answered = plain_llama([peer_request(request.completion) for request in batch], settings)
    texts = [Text(one.text, one.finished, one.sampled_tokens) for one in answered.answers]
    processed = sum(one.prefilled_tokens + one.sampled_tokens for one in answered.answers)
    return verified_run(
        arm, batch, texts, seconds=answered.wall_s, processed=processed, peak=answered.peak_bytes, verifier=verifier
    )


def verified_run(
    arm: str,
    batch: Sequence[BenchRequest],
    texts: Sequence[Text | None],
    *,
    seconds: float,
    processed: int,
    peak: int,
    verifier: Verifier,
) -> Run:
    """Verify the texts; returns the round's result. `texts`: None for failed requests; `peak`: bytes."""
    return Run(
        arm,
        len(batch),
        seconds,
        sum(text.sampled for text in texts if text is not None),
        processed,
        sum(is_faithful(request, text, verifier=verifier) for request, text in zip(batch, texts, strict=True)),
        sum(text is None for text in texts),
        peak / 2**20,
    )


def is_faithful(request: BenchRequest, text: Text | None, *, verifier: Verifier) -> bool:
    """Whether a text, tidied as in the service, passes the verifier."""
    if text is None:
        return False
    facts = note_facts(request.request)
    written = writer.tidy(text.text, finished=text.finished)
    return verifier.verify(written, facts=facts.stated, allowed=facts.allowed).verification.faithful
