"""The embedded engine: requests in, completions out, one thread that owns the model and steps the scheduler."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from prometheus_client import CollectorRegistry

from dermnote_contracts.completions import (
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    CompletionUsage,
    PromptTokensDetails,
    Segment,
)
from dermnote_notegen.engine.decoding import Constrained, Free, Part, Program, Segmented, tokens_of
from dermnote_notegen.engine.deterministic import Alone
from dermnote_notegen.engine.grammar import Grammar, Vocabulary
from dermnote_notegen.engine.llama import NAME, LlamaContext, Shape, Weights
from dermnote_notegen.engine.metrics import Figures
from dermnote_notegen.engine.model import EngineBusy, EngineFailed, GrammarRefused, Origin, PromptEmpty, PromptTooLong
from dermnote_notegen.engine.pace import Pace
from dermnote_notegen.engine.prefix_cache import LOGITS_KEPT
from dermnote_notegen.engine.sampling import Sampler, Sampling
from dermnote_notegen.engine.scheduler import Count, Scheduler
from dermnote_notegen.engine.sequence import End, Job

log = logging.getLogger(__name__)
Answer = Future[CompletionResponse]
# A quarter of the cells keeps what later requests may share: every token looks at the mask of every cell in use.
KEPT_SHARE = 4


class BatchEngine:
    """Runs up to `slots` requests at a time. `context_tokens`: the longest prompt and answer that it takes.

    `kept_cells`: how much of the cache may hold what nobody uses now, a quarter by default.
    """

    def __init__(
        self,
        weights: Weights,
        shape: Shape,
        *,
        origin: Origin,
        slots: int,
        context_tokens: int,
        most_waiting: int = 1000,
        kept_cells: int | None = None,
        step_tokens: int = 256,
    ) -> None:
        self.origin = origin
        self.context_tokens = min(context_tokens, shape.cells)
        self.slots = slots
        self.figures = Figures(slots=slots, cells=shape.cells)
        self._weights = weights
        self._shape = shape
        self._most_waiting = most_waiting
        self._context = LlamaContext(weights, shape, pace=Pace(shape.threads))
        self._scheduler = Scheduler(
            self._context,
            slots=slots,
            step_tokens=step_tokens,
            kept_cells=shape.cells // KEPT_SHARE if kept_cells is None else kept_cells,
        )
        self._contexts = [self._context]
        self._alone: Alone | None = None
        self._arrived: list[tuple[Job, bool]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once the thread has ended, which only a fault that it can't mend does."""
        return self._thread.is_alive()

    def info(self) -> dict[str, Any]:
        """What `/v1/models` says beside the model's name."""
        return {
            "sha256": self.origin.sha256,
            "quantization": self.origin.quantization and self.origin.quantization.model_dump(),
            "grammar": True,
            "context_tokens": self.context_tokens,
            "engine": NAME,
            "slots": self.slots,
            "cells": self._shape.cells,
            "shares_prefixes": self._context.shares,
            "memory_mib": self.memory_bytes >> 20,
        }

    @property
    def memory_bytes(self) -> int:
        """What weights, cache, recurrent states, kept logits and the deterministic requests' cache take at most.

        llama.cpp's working memory comes on top: some 100 MiB, more for wide models.
        """
        cells = self._shape.cells + self.context_tokens
        kept = LOGITS_KEPT * self._weights.vocabulary.size * 4
        states = (self._context.lanes + 1) * self._weights.lane_bytes
        return self._weights.bytes_ + cells * self._weights.cell_bytes + states + kept

    def submit(self, request: CompletionRequest, *, stop: Callable[[], bool]) -> Answer:
        """Queue a request. `stop` is asked before every step, and once true ends the request without an answer.

        Raises PromptEmpty (for a fixed segment too), PromptTooLong or GrammarRefused for what can never be done,
        EngineBusy when too many wait, EngineFailed once the engine has ended. A grammar may also be refused by the
        answer.
        """
        prompt = self._weights.encode(request.prompt, begin=True)
        if not prompt:
            raise PromptEmpty("no token of the model stands for anything in the prompt")
        program, max_tokens = self._program(request)
        if len(prompt) + max_tokens > self.context_tokens:
            raise PromptTooLong(f"{len(prompt)} + {max_tokens} tokens, context {self.context_tokens}")
        answer: Answer = Future()
        job = Job(
            program,
            prompt,
            max_tokens,
            stop,
            on_end=lambda job, end: self._answer(answer, job, end),
            shares_text=request.grammar is not None or request.segments is not None,
        )
        with self._wake:
            if self._closing:
                raise EngineFailed("the engine has ended")
            if self._waiting() >= self._most_waiting:
                raise EngineBusy(f"{self._most_waiting} requests wait already")
            self._arrived.append((job, request.deterministic))
            self._wake.notify()
        return answer

    @property
    def count(self) -> Count:
        """What the batches came to so far."""
        return self._scheduler.count

    @property
    def registry(self) -> CollectorRegistry:
        """The figures for Prometheus."""
        return self.figures.registry

    def stop(self) -> None:
        """End the thread after its step; what runs or waits is answered with EngineFailed."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def close(self) -> None:
        """Stop, and free the caches."""
        self.stop()
        for context in self._contexts:
            context.close()

    def _run(self) -> None:
        try:
            while self._take_arrivals():
                self._scheduler.step()
                if self._alone is not None:
                    self._alone.step()
                self.figures.observe(self._scheduler)
        except Exception:
            log.exception("the engine's thread ended")
            raise
        finally:
            self._fail_all()

    def _take_arrivals(self) -> bool:
        """Queue what arrived, waiting for it when there is nothing to do; False when the engine closes."""
        with self._wake:
            while not (self._arrived or self._busy or self._closing):
                self._wake.wait()
        while self._arrived:  # it stays there until it is queued: where that fails it is answered too
            job, deterministic = self._arrived[0]
            (self._apart() if deterministic else self._scheduler).add(job)
            del self._arrived[0]
        return not self._closing

    @property
    def _busy(self) -> bool:
        return self._scheduler.busy or (self._alone is not None and self._alone.busy)

    def _waiting(self) -> int:
        alone = len(self._alone.waiting) if self._alone is not None else 0
        return len(self._arrived) + len(self._scheduler.waiting) + alone

    def _apart(self) -> Alone:
        """The deterministic requests' own context, made when the first of them comes."""
        if self._alone is None:
            shape = Shape(
                cells=self.context_tokens,
                lanes=1,
                threads=1,  # so that neither the load nor the machine's cores shape what it says
                flash_attention=self._shape.flash_attention,
                keys=self._shape.keys,
                values=self._shape.values,
            )
            self._contexts.append(LlamaContext(self._weights, shape))
            self._alone = Alone(self._contexts[-1])
        return self._alone

    def _program(self, request: CompletionRequest) -> tuple[Program, int]:
        """(what writes the answer, the most tokens that it writes)."""
        vocabulary = self._weights.vocabulary
        sampling = Sampling(request.temperature, request.top_k, request.top_p, request.min_p)
        sampler = Sampler(sampling, seed=request.seed)

        def written(grammar: str | None, stop: Sequence[str], most: int) -> Program:
            if grammar is not None:
                return Constrained(Grammar(grammar, vocabulary), sampler, vocabulary, max_tokens=most, stop=stop)
            return Free(sampler, vocabulary, max_tokens=most, stop=stop)

        whole = request.segments is None or (request.grammar is not None and not self._context.shares)
        if whole or request.segments is None:
            return written(request.grammar, request.stop, request.max_tokens), request.max_tokens

        def part(segment: Segment) -> Part:
            if segment.text is not None:
                return Part(_fixed(segment.text, vocabulary), segment.from_prompt)
            return Part(written(segment.grammar, segment.stop, segment.max_tokens), segment.from_prompt)

        parts = [part(segment) for segment in request.segments]
        return Segmented(parts, vocabulary), _longest_run(request.segments, parts)

    def _answer(self, answer: Answer, job: Job, end: End) -> None:
        self.figures.ended(job, end)
        if end is End.STOPPED:
            answer.cancel()
        elif not answer.set_running_or_notify_cancel():
            return  # who asked has cancelled it
        elif end is End.REFUSED:
            answer.set_exception(GrammarRefused("the grammar is more than the parser can do"))
        elif end is End.NO_ROOM:
            answer.set_exception(PromptTooLong("the cache has no room for the request, even alone"))
        elif end is End.BROKEN:
            answer.set_exception(EngineFailed("the context broke; ask again"))
        else:
            answer.set_result(self._response(job))

    def _response(self, job: Job) -> CompletionResponse:
        written = job.program.written
        usage = CompletionUsage(
            prompt_tokens=len(job.prompt),
            completion_tokens=written.forced + written.sampled,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=job.cached),
            forced_tokens=written.forced,
            decisions=written.decisions,
        )
        text = written.text.decode("utf-8", errors="ignore")
        return CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.origin.name,
            choices=[CompletionChoice(text=text, finish_reason="stop" if written.finished else "length")],
            usage=usage,
        )

    def _fail_all(self) -> None:
        with self._wake:
            self._closing = True
            waiting = [job for job, _ in self._arrived]
        waiting += [*self._scheduler.waiting, *self._scheduler.running]
        if self._alone is not None:
            waiting += [*self._alone.waiting, *([self._alone.running] if self._alone.running else [])]
        for job in waiting:
            job.on_end(job, End.BROKEN)


def _fixed(text: str, vocabulary: Vocabulary) -> list[int]:
    """The tokens of a fixed segment. Raises PromptEmpty where they would not say what it says."""
    tokens = tokens_of(text.encode(), vocabulary)
    if b"".join(map(vocabulary.text, tokens)) != text.encode():
        raise PromptEmpty("no tokens of the model make up a segment's text")
    return tokens


def _longest_run(segments: Sequence[Segment], parts: Sequence[Part]) -> int:
    """The most tokens behind the prompt at one time: a segment that is written from the prompt starts anew."""
    runs = [0]
    for segment, part in zip(segments, parts, strict=True):
        length = len(part.content) if isinstance(part.content, Sequence) else segment.max_tokens
        if part.from_prompt:
            runs.append(0)
        runs[-1] += length
    return max(runs)
