"""Writing notes: attempt, verify, retry, fall back. Knows an engine only as something that completes text."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import Note, NoteRequest, Provenance, Tokens
from dermnote_contracts.problems import InvalidRequest
from dermnote_notegen import prompts, skeleton
from dermnote_notegen.strategies import facts_to_state
from dermnote_notegen.verify import Verdict, verify

ATTEMPTS_WITH_RETRY = 4


class NoteUnfaithful(InvalidRequest):
    """The model's text was not faithful and `on_unfaithful` is reject."""

    code, title = "note-unfaithful", "No faithful note was written"


class Engine(Protocol):
    """Where completions come from. `model`: the (name, sha256) of the weights behind it."""

    @property
    def model(self) -> tuple[str, str | None]: ...

    def complete(self, request: CompletionRequest) -> CompletionResponse: ...


@dataclass
class Draft:
    """A text, the verdict on it, and what it cost so far."""

    text: str
    verdict: Verdict
    attempts: int = 0
    source: str = "llm"
    tokens: Tokens = field(default_factory=Tokens)
    llm_ms: float = 0.0


def write(request: NoteRequest, *, engine: Engine, seed: int) -> list[Note]:
    """Write `options.n` notes that differ where the facts allow it. Raises NoteUnfaithful under `reject`."""
    facts = facts_to_state(request)
    notes: list[Note] = []
    for variant in range(request.options.n):
        started = time.perf_counter()
        draft = _draft(request, facts, engine=engine, seed=seed, variant=variant, taken={note.text for note in notes})
        total_ms = (time.perf_counter() - started) * 1000
        notes.append(_note(request, draft, engine=engine, seed=seed, total_ms=total_ms))
    return notes


def _draft(
    request: NoteRequest, facts: dict[str, Any], *, engine: Engine, seed: int, variant: int, taken: set[str]
) -> Draft:
    if request.strategy == "M":
        text = skeleton.template_m(facts)
        return Draft(text, verify(text, facts=facts), source="template")
    draft = _attempts(request, facts, engine=engine, seeds=_seeds(seed, variant), taken=taken)
    policy = request.options.on_unfaithful
    if draft.verdict.verification.faithful or policy == "keep":
        return draft
    if policy == "reject":
        raise NoteUnfaithful("the model's text did not match the facts; see on_unfaithful")
    return _fallback(draft, facts, seeds=_seeds(seed, variant), taken=taken)


def _attempts(
    request: NoteRequest, facts: dict[str, Any], *, engine: Engine, seeds: Iterator[int], taken: set[str]
) -> Draft:
    """Ask the model until a text is faithful and new, as often as the policy allows; the last try is kept."""
    prompt = prompts.render(request.strategy, facts=facts, options=request.options)
    draft = Draft("", verify("", facts=facts))
    allowed = ATTEMPTS_WITH_RETRY if request.options.on_unfaithful == "retry" else 1
    for attempt, seed in zip(range(1, allowed + 1), seeds, strict=False):
        started = time.perf_counter()
        answer = engine.complete(_completion(prompt, seed=seed, attempt=attempt))
        text = tidy(answer.choices[0].text, finished=answer.choices[0].finish_reason == "stop")
        draft = Draft(
            text,
            verify(text, facts=facts),
            attempts=attempt,
            tokens=draft.tokens + _tokens(answer),
            llm_ms=draft.llm_ms + (time.perf_counter() - started) * 1000,
        )
        if draft.verdict.verification.faithful and text not in taken:
            break
    return draft


def _completion(prompt: prompts.Prompt, *, seed: int, attempt: int) -> CompletionRequest:
    """A second and later attempt samples a little warmer, so that it can differ."""
    warmer = prompt.temperature + 0.1 * (attempt - 1) if prompt.temperature else 0.0
    return CompletionRequest(
        prompt=prompt.text,
        max_tokens=prompt.max_tokens,
        temperature=min(warmer, 2.0),
        seed=seed,
        stop=list(prompt.stop),
    )


def _fallback(draft: Draft, facts: dict[str, Any], *, seeds: Iterator[int], taken: set[str]) -> Draft:
    """The skeleton in place of the model's text, in a wording not used yet where one is left."""
    wordings = [skeleton.write_skeleton(facts, seed=seed) for _, seed in zip(range(16), seeds, strict=False)]
    text = next((wording for wording in wordings if wording not in taken), wordings[0])
    return Draft(
        text, verify(text, facts=facts), draft.attempts, source="template", tokens=draft.tokens, llm_ms=draft.llm_ms
    )


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
        decisions=usage.decisions if usage.decisions is not None else usage.completion_tokens,
    )


def _note(request: NoteRequest, draft: Draft, *, engine: Engine, seed: int, total_ms: float) -> Note:
    name, sha256 = engine.model if draft.attempts else (None, None)
    return Note(
        text=draft.text,
        strategy=request.strategy,
        facts=draft.verdict.facts,
        verification=draft.verdict.verification,
        provenance=Provenance(
            model=name,
            model_sha256=sha256,
            prompt_version=prompts.prompt_file(request.strategy).version,
            seed=seed,
            attempts=draft.attempts,
            source="llm" if draft.source == "llm" else "template",
            tokens=draft.tokens,
            timings_ms={"llm": round(draft.llm_ms, 1), "total": round(total_ms, 1)},
        ),
    )
