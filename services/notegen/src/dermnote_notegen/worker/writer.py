"""Writing notes: attempt, verify, retry, fall back. Knows an engine only as something that completes text."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import ModelInfo, Note, NoteRequest, Provenance, Tokens
from dermnote_contracts.problems import InvalidRequest
from dermnote_notegen.verify import Verdict, Verifier
from dermnote_notegen.writing.note_grammar import write_skeleton, write_template
from dermnote_notegen.writing.priors import Prior, Priors
from dermnote_notegen.writing.prompt import Prompt, render
from dermnote_notegen.writing.prompts import prompt_file
from dermnote_notegen.writing.strategies import NoteFacts, note_facts

MOST_ATTEMPTS = 4
# A text counts as the model's own (`source: llm`) from this many choices on.
LEAST_DECISIONS = 8
# How a free text is sampled (llama.cpp's own defaults); under a grammar nothing that it allows is left out.
FREE: dict[str, float] = {"top_p": 0.95, "top_k": 40, "min_p": 0.05}
GUIDED: dict[str, float] = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}


class NoteUnfaithful(InvalidRequest):
    """The model's text was not faithful and `on_unfaithful` is reject."""

    code, title = "note-unfaithful", "No faithful note was written"


class Engine(Protocol):
    """Where completions come from. `model`: the weights behind it, and whether a text can be held to a grammar."""

    @property
    def model(self) -> ModelInfo: ...

    def complete(self, request: CompletionRequest) -> CompletionResponse: ...


@dataclass
class Draft:
    """A text, the verdict on it, the choices that the model made in it, and what all attempts cost."""

    text: str
    verdict: Verdict
    attempts: int = 0
    source: str = "llm"
    tokens: Tokens = field(default_factory=Tokens)
    decisions: int = 0
    llm_ms: float = 0.0


@dataclass(frozen=True)
class Desk:
    """What a note is written with: the model behind `engine`, the priors, and the verifier that knows them."""

    engine: Engine
    priors: Priors
    verifier: Verifier


def desk(engine: Engine, priors: Priors) -> Desk:
    """A desk with a verifier for its priors; building that takes a moment, so keep it."""
    return Desk(engine, priors, Verifier(priors))


def write(request: NoteRequest, *, desk: Desk, seed: int) -> list[Note]:
    """Write `options.n` notes that differ where the facts allow it. Raises NoteUnfaithful under `reject`."""
    job = _Job(request, note_facts(request), desk)
    notes: list[Note] = []
    for variant in range(request.options.n):
        started = time.perf_counter()
        draft = _draft(job, seeds=_seeds(seed, variant), taken={note.text for note in notes})
        total_ms = (time.perf_counter() - started) * 1000
        notes.append(_note(job, draft, seed=seed, total_ms=total_ms))
    return notes


@dataclass(frozen=True)
class _Job:
    """What all variants of a note share."""

    request: NoteRequest
    facts: NoteFacts
    desk: Desk

    @property
    def prior(self) -> Prior | None:
        """What is typical of the diagnosis; nothing of a blinded note."""
        return self.desk.priors.get(self.facts.diagnosis or "")

    def prompt(self, *, seed: int) -> Prompt:
        """What the model is asked, for an engine that can or can't hold it to a grammar."""
        return render(
            self.request.strategy,
            facts=self.facts,
            prior=self.prior,
            options=self.request.options,
            seed=seed,
            grammar=self.desk.engine.model.grammar,
        )

    def verdict(self, text: str) -> Verdict:
        return self.desk.verifier.verify(text, facts=self.facts.stated, allowed=self.facts.allowed)


def _draft(job: _Job, *, seeds: Iterator[int], taken: set[str]) -> Draft:
    if job.request.strategy == "M":
        text = write_template(job.facts.stated)
        return Draft(text, job.verdict(text), source="template")
    draft = _attempts(job, seeds=seeds, taken=taken)
    policy = job.request.options.on_unfaithful
    will_do = draft.text not in taken or policy == "reject"  # the template never stands in under reject
    if policy == "keep" or (draft.verdict.verification.faithful and will_do):
        return draft
    if policy == "reject":
        raise NoteUnfaithful("the model's text did not match the facts; see on_unfaithful")
    return _fallback(job, draft, seeds=seeds, taken=taken)


def _attempts(job: _Job, *, seeds: Iterator[int], taken: set[str]) -> Draft:
    """Ask the model until a text is new, and faithful where the policy is to retry; the last try is kept."""
    options = job.request.options
    draft = Draft("", job.verdict(""))
    for attempt, seed in zip(range(1, MOST_ATTEMPTS + 1), seeds, strict=False):
        prompt = job.prompt(seed=seed)
        started = time.perf_counter()
        asked = completion(prompt, seed=seed, attempt=attempt, deterministic=options.deterministic)
        answer = job.desk.engine.complete(asked)
        text = tidy(answer.choices[0].text, finished=answer.choices[0].finish_reason == "stop")
        draft = Draft(
            text,
            job.verdict(text),
            attempts=attempt,
            tokens=draft.tokens + _tokens(answer),
            decisions=_decisions(answer),
            llm_ms=draft.llm_ms + (time.perf_counter() - started) * 1000,
        )
        will_do = draft.verdict.verification.faithful or options.on_unfaithful != "retry"
        if will_do and text not in taken:
            break
    return draft


def completion(prompt: Prompt, *, seed: int, attempt: int = 1, deterministic: bool = False) -> CompletionRequest:
    """What the engine is asked. A second and later attempt samples a little warmer, so that it can differ."""
    warmer = prompt.temperature + 0.1 * (attempt - 1) if prompt.temperature else 0.0
    return CompletionRequest(
        prompt=prompt.text,
        max_tokens=prompt.max_tokens,
        temperature=min(warmer, 2.0),
        seed=seed,
        stop=list(prompt.stop),
        grammar=prompt.grammar,
        segments=list(prompt.segments) or None,
        deterministic=deterministic,
        **(FREE if prompt.grammar is None else GUIDED),
    )


def _fallback(job: _Job, draft: Draft, *, seeds: Iterator[int], taken: set[str]) -> Draft:
    """The skeleton in place of the model's text, in a wording not used yet where one is left."""
    wordings = [write_skeleton(job.facts.stated, seed=seed) for _, seed in zip(range(16), seeds, strict=False)]
    text = next((wording for wording in wordings if wording not in taken), wordings[0])
    return replace(draft, text=text, verdict=job.verdict(text), source="template")


def _seeds(seed: int, variant: int) -> Iterator[int]:
    draw = random.Random(f"{seed}/{variant}")
    while True:
        yield draw.randrange(2**31)


def tidy(text: str, *, finished: bool) -> str:
    """One paragraph of whole sentences: a sentence that the token limit cut is dropped."""
    text = " ".join(text.split())
    if not finished and text and text[-1] not in ".!?":
        cut = max(text.rfind(". "), text.rfind("! "), text.rfind("? "))
        text = text[: cut + 1]
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
    """Choices in this text; every sampled token is one where an engine does not count them."""
    usage = answer.usage
    return usage.completion_tokens if usage.decisions is None else usage.decisions


def _note(job: _Job, draft: Draft, *, seed: int, total_ms: float) -> Note:
    model = job.desk.engine.model if draft.attempts else None
    strategy = job.request.strategy
    source = prompt_file(strategy)
    return Note(
        text=draft.text,
        strategy=strategy,
        facts=draft.verdict.facts,
        verification=draft.verdict.verification,
        provenance=Provenance(
            model=model and model.name,
            model_sha256=model and model.sha256,
            quantization=model and model.quantization,
            grammar_enforced=model.grammar if model and source.wordings else None,
            prompt_version=source.version,
            priors_version=job.desk.priors.version if job.prior else None,
            seed=seed,
            attempts=draft.attempts,
            source="llm" if draft.source == "llm" and draft.decisions >= LEAST_DECISIONS else "template",
            tokens=draft.tokens,
            timings_ms={"llm": round(draft.llm_ms, 1), "total": round(total_ms, 1)},
        ),
    )
