"""The RQ task: writes a note with the engine, verifies it, retries, and falls back to a template."""

import functools
import logging
import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import ModelInfo, Note, NoteRequest, Provenance, Tokens
from dermnote_contracts.problems import EngineCrashed, EngineRefused, InvalidRequest, NoteUnfaithful
from dermnote_http.logging import request_id_scope
from dermnote_http.settings import read_settings
from dermnote_notegen.queue.records import NoteStore
from dermnote_notegen.queue.redis import connect
from dermnote_notegen.settings import Settings
from dermnote_notegen.verify import Verdict, Verifier
from dermnote_notegen.worker.engine_client import EngineClient
from dermnote_notegen.writing.grammar import write_skeleton, write_template
from dermnote_notegen.writing.priors import Prior, Priors, load_priors
from dermnote_notegen.writing.prompt import Prompt, build_prompt
from dermnote_notegen.writing.strategies import NoteFacts, note_facts, prompt_file

log = logging.getLogger(__name__)
REDIS_TIMEOUT_S = 30  # longer than a worker blocks for a job
MAX_ATTEMPTS = 4
MAX_SKELETONS = 16
# A text counts as the model's own (`source: llm`) if the model made at least this many choices in it.
MIN_DECISIONS = 8
# Free text is sampled with llama.cpp's defaults; under a grammar no allowed token is filtered out.
FREE_SAMPLING: dict[str, float] = {"top_p": 0.95, "top_k": 40, "min_p": 0.05}
GRAMMAR_SAMPLING: dict[str, float] = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}


class Engine(Protocol):
    """Completes text. `model`: its weights, and whether it supports grammars."""

    @property
    def model(self) -> ModelInfo: ...

    def complete(self, request: CompletionRequest) -> CompletionResponse: ...


@dataclass
class Draft:
    """A text and its verdict. `decisions`: the model's choices in the text; `tokens`, `llm_ms`: of all attempts."""

    text: str
    verdict: Verdict
    attempts: int = 0
    source: str = "llm"
    tokens: Tokens = field(default_factory=Tokens)
    decisions: int = 0
    llm_ms: float = 0.0


class NoteWriter:
    """Writes notes with an engine and clinical priors. Reuse it: building the verifier's lexicon takes a moment."""

    def __init__(self, engine: Engine, priors: Priors) -> None:
        self.engine = engine
        self.priors = priors
        self.verifier = Verifier(priors)

    def write(self, request: NoteRequest, *, seed: int) -> list[Note]:
        """Write `options.n` notes that differ where the facts allow it. Raises NoteUnfaithful."""
        job = _Job(request, note_facts(request), self)
        notes: list[Note] = []
        for variant in range(request.options.n):
            started = time.perf_counter()
            draft = job.draft(seeds=_seeds(seed, variant), taken={note.text for note in notes})
            total_ms = (time.perf_counter() - started) * 1000
            notes.append(job.note(draft, seed=seed, total_ms=total_ms))
        return notes


@dataclass(frozen=True)
class _Job:
    """One request, whose variants share its facts."""

    request: NoteRequest
    facts: NoteFacts
    writer: NoteWriter

    @property
    def prior(self) -> Prior | None:
        """The clinical prior of the diagnosis; None for a blinded note."""
        return self.writer.priors.get(self.facts.diagnosis or "")

    def draft(self, *, seeds: Iterator[int], taken: set[str]) -> Draft:
        """One variant, if possible not in `taken`: the model's text if it may be kept, else a template."""
        if self.request.strategy == "M":
            text = write_template(self.facts.stated)
            return Draft(text, self._verdict(text), source="template")
        draft = self._attempt(seeds=seeds, taken=taken)
        policy = self.request.options.on_unfaithful
        acceptable = draft.text not in taken or policy == "reject"  # with "reject" no template replaces the text
        if policy == "keep" or (draft.verdict.verification.faithful and acceptable):
            return draft
        if policy == "reject":
            raise NoteUnfaithful("the model's text did not match the facts; see on_unfaithful")
        skeletons = [write_skeleton(self.facts.stated, seed=seed) for seed in islice(seeds, MAX_SKELETONS)]
        text = next((skeleton for skeleton in skeletons if skeleton not in taken), skeletons[0])
        return replace(draft, text=text, verdict=self._verdict(text), source="template")

    def _attempt(self, *, seeds: Iterator[int], taken: set[str]) -> Draft:
        """The first text that is new and, if the policy is "retry", faithful; else the last of MAX_ATTEMPTS texts."""
        options = self.request.options
        draft = Draft("", self._verdict(""))
        for attempt, seed in enumerate(islice(seeds, MAX_ATTEMPTS), start=1):
            prompt = build_prompt(
                self.request.strategy,
                facts=self.facts,
                prior=self.prior,
                options=options,
                seed=seed,
                grammar=self.writer.engine.model.grammar,
            )
            started = time.perf_counter()
            answer = self.writer.engine.complete(
                completion_request(prompt, seed=seed, attempt=attempt, deterministic=options.deterministic)
            )
            text = tidy(answer.choices[0].text, finished=answer.choices[0].finish_reason == "stop")
            draft = Draft(
                text,
                self._verdict(text),
                attempts=attempt,
                tokens=draft.tokens + _tokens(answer),
                decisions=_decisions(answer),
                llm_ms=draft.llm_ms + (time.perf_counter() - started) * 1000,
            )
            acceptable = draft.verdict.verification.faithful or options.on_unfaithful != "retry"
            if acceptable and text not in taken:
                break
        return draft

    def _verdict(self, text: str) -> Verdict:
        return self.writer.verifier.verify(text, facts=self.facts.stated, allowed=self.facts.allowed)

    def note(self, draft: Draft, *, seed: int, total_ms: float) -> Note:
        """A draft with its provenance."""
        model = self.writer.engine.model if draft.attempts else None
        prompts = prompt_file(self.request.strategy)
        return Note(
            text=draft.text,
            strategy=self.request.strategy,
            facts=draft.verdict.facts,
            verification=draft.verdict.verification,
            provenance=Provenance(
                model=model and model.name,
                model_sha256=model and model.sha256,
                quantization=model and model.quantization,
                grammar_enforced=model.grammar if model and prompts.wordings else None,
                prompt_version=prompts.version,
                priors_version=self.writer.priors.version if self.prior else None,
                seed=seed,
                attempts=draft.attempts,
                source="llm" if draft.source == "llm" and draft.decisions >= MIN_DECISIONS else "template",
                tokens=draft.tokens,
                timings_ms={"llm": round(draft.llm_ms, 1), "total": round(total_ms, 1)},
            ),
        )


def completion_request(
    prompt: Prompt, *, seed: int, attempt: int = 1, deterministic: bool = False
) -> CompletionRequest:
    """The engine's request for a prompt. Retries sample at a slightly higher temperature, so that texts can differ."""
    temperature = prompt.temperature + 0.1 * (attempt - 1) if prompt.temperature else 0.0
    return CompletionRequest(
        prompt=prompt.text,
        max_tokens=prompt.max_tokens,
        temperature=min(temperature, 2.0),
        seed=seed,
        stop=list(prompt.stop),
        grammar=prompt.grammar,
        segments=list(prompt.segments) or None,
        deterministic=deterministic,
        **(FREE_SAMPLING if prompt.grammar is None else GRAMMAR_SAMPLING),
    )


def _seeds(seed: int, variant: int) -> Iterator[int]:
    random_ = random.Random(f"{seed}/{variant}")
    while True:
        yield random_.randrange(2**31)


def tidy(text: str, *, finished: bool) -> str:
    """One paragraph of whole sentences: a sentence cut by the token limit is dropped."""
    text = " ".join(text.split())
    if not finished and text and text[-1] not in ".!?":
        end = max(text.rfind(". "), text.rfind("! "), text.rfind("? "))
        text = text[: end + 1]
    return text


def _tokens(answer: CompletionResponse) -> Tokens:
    usage = answer.usage
    return Tokens(
        prompt=usage.prompt_tokens,
        cached=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0,
        forced=usage.forced_tokens,
        sampled=usage.completion_tokens - usage.forced_tokens,
        decisions=_decisions(answer),
    )


def _decisions(answer: CompletionResponse) -> int:
    """The model's choices in a text; if the engine doesn't count them, every generated token counts as one."""
    usage = answer.usage
    return usage.completion_tokens if usage.decisions is None else usage.decisions


@dataclass(frozen=True)
class Runtime:
    """What jobs need. Built once in the supervisor and inherited by each worker, which opens its own connections."""

    settings: Settings
    redis: Redis
    store: NoteStore
    engine: EngineClient
    writer: NoteWriter

    @classmethod
    def from_settings(cls, settings: Settings) -> "Runtime":
        """Build everything without connecting yet. Redis commands are retried while Redis restarts.

        Raises PasswordUnreadable, PriorsInvalid.
        """
        retry = Retry(ExponentialBackoff(cap=2, base=0.1), retries=12)
        redis = connect(settings, retry=retry, socket_timeout=REDIS_TIMEOUT_S)
        engine = EngineClient(
            socket=settings.engine_socket,
            url=None if settings.engine_url is None else str(settings.engine_url).rstrip("/"),
            model_name=settings.model if settings.engine_url else "",
            wait_s=settings.engine_wait_s,
        )
        writer = NoteWriter(engine, load_priors(settings.priors_dir))
        return cls(settings, redis, NoteStore(redis, note_ttl_s=settings.note_ttl_s), engine, writer)


@functools.cache
def process_runtime() -> Runtime:
    """This process's runtime, from the environment; cached, because RQ calls `write_note` with only a note id."""
    return Runtime.from_settings(read_settings(Settings))


def write_note(note_id: str) -> None:
    """The RQ task. Idempotent: an ended note is left as it is.

    Errors that a retry can't cure fail the note with their reason; any other exception makes RQ retry the job.
    """
    runtime = process_runtime()
    started = runtime.store.start(note_id)
    if started is None:
        return
    request = started.request
    seed = request.options.seed if request.options.seed is not None else secrets.randbelow(2**31)
    with request_id_scope(started.request_id):
        try:
            notes = runtime.writer.write(request, seed=seed)
        except (InvalidRequest, EngineRefused, EngineCrashed) as error:
            runtime.store.fail(note_id, error.problem())
            log.info("note %s failed: %s", note_id, error.code)
        else:
            runtime.store.finish(note_id, notes)
            log.info("note %s finished: %s", note_id, ", ".join(note.provenance.source for note in notes))
