"""The embedded engine: requests in, completions out. One thread owns the model and steps the scheduler."""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from dermnote_contracts.completions import (
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    CompletionUsage,
    PromptTokensDetails,
    Segment,
)
from dermnote_notegen.engine.llama import NAME, ContextConfig, LlamaContext, Weights
from dermnote_notegen.engine.metrics import EngineMetrics
from dermnote_notegen.engine.model import (
    CompletionFuture,
    ContextBroken,
    EngineBusy,
    EngineFailed,
    GrammarError,
    ModelInfo,
    PromptEmpty,
    PromptTooLong,
)
from dermnote_notegen.engine.prefix_cache import CACHED_LOGITS
from dermnote_notegen.engine.sampling import Grammar, Sampler, SamplingParams, Vocabulary
from dermnote_notegen.engine.scheduler import Scheduler
from dermnote_notegen.engine.sequence import Decoder, Outcome, OutputSegment, SegmentedDecoder, Sequence, TextDecoder

log = logging.getLogger(__name__)
# A quarter of the cells may hold branches that no running request uses, for later requests. More would slow down every
# token, because attention reads the mask of every cell in use.
UNUSED_SHARE = 4
# All other requests wait for each step of a deterministic one, so such a step decodes few tokens, never a whole long
# prompt.
ISOLATED_STEP_TOKENS = 32


class LLMEngine:
    """Runs up to `slots` requests concurrently. `context_tokens`: token limit of a prompt and its completion.

    Deterministic requests run one at a time in a separate context: logits depend slightly on the other tokens of a
    batch, and in that context all tokens of a batch belong to the same request.
    """

    def __init__(
        self,
        weights: Weights,
        config: ContextConfig,
        *,
        model_info: ModelInfo,
        slots: int,
        context_tokens: int,
        max_waiting: int = 1000,
    ) -> None:
        self.model_info = model_info
        self.context_tokens = min(context_tokens, config.cells)
        self.slots = slots
        self._metrics = EngineMetrics(slots=slots, cells=config.cells)
        self.registry = self._metrics.registry
        self._weights = weights
        self._config = config
        self._max_waiting = max_waiting
        self._context = LlamaContext(weights, config)
        self._scheduler = Scheduler(self._context, slots=slots, unused_cells=config.cells // UNUSED_SHARE)
        self.stats = self._scheduler.stats
        self._isolated_context: LlamaContext | None = None
        self._isolated: Scheduler | None = None
        self._arrived: list[tuple[Sequence, bool]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once the thread has ended, after `stop` or an unrecoverable error."""
        return self._thread.is_alive()

    def info(self) -> dict[str, Any]:
        """The fields of `/v1/models` besides the model's name."""
        return {
            "sha256": self.model_info.sha256,
            "quantization": self.model_info.quantization and self.model_info.quantization.model_dump(),
            "grammar": True,
            "context_tokens": self.context_tokens,
            "engine": NAME,
            "slots": self.slots,
            "cells": self._config.cells,
            "shares_prefixes": self._context.shares,
            "memory_mib": self.memory_bytes >> 20,
        }

    @property
    def memory_bytes(self) -> int:
        """Maximum memory of weights, caches, recurrent states and cached logits.

        The cache and the state of deterministic requests are included.

        llama.cpp's compute buffers come on top: about 100 MiB, more for wide models.
        """
        cells = self._config.cells + self.context_tokens
        logits = CACHED_LOGITS * self._weights.vocabulary.size * 4
        cache = self._weights.cache_bytes
        states = (self._context.max_sequences + 1) * cache.per_sequence
        return self._weights.weight_bytes + cells * cache.per_token + states + logits

    def submit(self, request: CompletionRequest, *, cancelled: Callable[[], bool]) -> CompletionFuture:
        """Queue a request. `cancelled` is called before every step; once it returns True, the future is cancelled.

        Raises PromptEmpty (if the prompt has no tokens, or the model's tokens cannot express a fixed segment),
        PromptTooLong or GrammarError for an impossible request, EngineBusy if the queue is full, and EngineFailed once
        the engine has ended. The future may also raise GrammarError.
        """
        prompt = self._weights.encode(request.prompt, begin=True)
        if not prompt:
            raise PromptEmpty("the prompt contains no token of the model")
        decoder, max_tokens = self._decoder(request)
        if len(prompt) + max_tokens > self.context_tokens:
            raise PromptTooLong(
                f"prompt {len(prompt)} + completion {max_tokens} tokens exceed the context of {self.context_tokens}"
            )
        future = CompletionFuture()
        sequence = Sequence(
            decoder,
            prompt,
            max_tokens,
            cancelled,
            on_end=lambda sequence, outcome: self._resolve(future, sequence, outcome),
            reusable=not request.deterministic and (request.grammar is not None or request.segments is not None),
        )
        with self._wake:
            if self._closing:
                raise EngineFailed("the engine has ended")
            if self._waiting() >= self._max_waiting:
                raise EngineBusy(f"{self._max_waiting} requests are waiting")
            self._arrived.append((sequence, request.deterministic))
            self._wake.notify()
        return future

    def stop(self) -> None:
        """End the thread after its current step; pending requests fail with EngineFailed."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def close(self) -> None:
        """Stop, and free the caches."""
        self.stop()
        self._context.close()
        if self._isolated_context is not None:
            self._isolated_context.close()

    def _run(self) -> None:
        try:
            while self._queue_arrivals():
                self._scheduler.step()
                self._step_isolated()
                self._metrics.observe_step(self._scheduler)
        except Exception:
            log.exception("the engine's thread ended")
            raise
        finally:
            self._fail_all()

    def _queue_arrivals(self) -> bool:
        """Queue new requests, blocking while there is nothing to do; False if the engine is closing."""
        with self._wake:
            while not (self._arrived or self._closing or any(scheduler.busy for scheduler in self._schedulers())):
                self._wake.wait()
        while self._arrived:  # removed only after it is queued, so that `_fail_all` still finds it after an error
            sequence, deterministic = self._arrived[0]
            try:
                (self._isolated_scheduler() if deterministic else self._scheduler).add(sequence)
            except MemoryError as error:
                log.error("no memory for deterministic requests: %s", error)  # noqa: TRY400  no traceback needed
                sequence.on_end(sequence, Outcome.FAILED)
            del self._arrived[0]
        return not self._closing

    def _schedulers(self) -> list[Scheduler]:
        return [scheduler for scheduler in (self._scheduler, self._isolated) if scheduler is not None]

    def _waiting(self) -> int:
        return len(self._arrived) + sum(len(scheduler.waiting) for scheduler in self._schedulers())

    def _isolated_scheduler(self) -> Scheduler:
        """The scheduler of deterministic requests; its context is created for the first of them."""
        if self._isolated is None:
            config = ContextConfig(
                cells=self.context_tokens,
                # The second is temporary: a prompt's last token is decoded in it again if only its logits are missing.
                max_sequences=2 if self._context.shares else 1,
                threads=1,  # so that neither the load nor the number of cores affects the text
                keys=self._config.keys,
            )
            self._isolated_context = LlamaContext(self._weights, config)
            self._isolated = Scheduler(self._isolated_context, slots=1, step_tokens=ISOLATED_STEP_TOKENS, isolated=True)
        return self._isolated

    def _step_isolated(self) -> None:
        """Step the deterministic requests; if their context cannot be rebuilt, they fail and the others continue."""
        if self._isolated is None or self._isolated_context is None:
            return
        try:
            self._isolated.step()
        except (ContextBroken, MemoryError) as error:
            log.error("the context of deterministic requests is lost: %s", error)  # noqa: TRY400  no traceback needed
            self._isolated.fail_all()
            self._isolated_context.close()
            self._isolated = self._isolated_context = None

    def _decoder(self, request: CompletionRequest) -> tuple[Decoder, int]:
        """(decoder of the request, the most tokens that follow the prompt at any time)."""
        vocabulary = self._weights.vocabulary
        params = SamplingParams(request.temperature, request.top_k, request.top_p, request.min_p)
        sampler = Sampler(params, seed=request.seed)

        def text_decoder(part: CompletionRequest | Segment) -> TextDecoder:
            grammar = None if part.grammar is None else Grammar(part.grammar, vocabulary)
            return TextDecoder(sampler, vocabulary, max_tokens=part.max_tokens, stop=part.stop, grammar=grammar)

        # If prefixes cannot be shared, segments may decode the prompt again, so a grammar of the request replaces them.
        if request.segments is None or (request.grammar is not None and not self._context.shares):
            return text_decoder(request), request.max_tokens
        segments = [
            OutputSegment(
                text_decoder(segment) if segment.text is None else _encode_fixed(segment.text, vocabulary),
                segment.from_prompt,
            )
            for segment in request.segments
        ]
        return SegmentedDecoder(segments, vocabulary), _longest_run(request.segments, segments)

    def _resolve(self, future: CompletionFuture, sequence: Sequence, outcome: Outcome) -> None:
        self._metrics.observe_request(sequence, outcome)
        if outcome is Outcome.CANCELLED:
            future.cancel()
        elif not future.set_running_or_notify_cancel():
            return  # the caller has cancelled it
        elif outcome is Outcome.GRAMMAR_ERROR:
            future.set_exception(GrammarError("the grammar exceeds the parser's limits"))
        elif outcome is Outcome.CACHE_TOO_SMALL:
            future.set_exception(PromptTooLong("the request does not fit the cache, even alone"))
        elif outcome is Outcome.FAILED:
            future.set_exception(EngineFailed("the context broke; send the request again"))
        else:
            future.set_result(self._response(sequence))

    def _response(self, sequence: Sequence) -> CompletionResponse:
        output = sequence.decoder.output
        usage = CompletionUsage(
            prompt_tokens=len(sequence.prompt),
            completion_tokens=output.forced + output.sampled,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sequence.cached_tokens),
            forced_tokens=output.forced,
            decisions=output.decisions,
        )
        text = output.text.decode("utf-8", errors="ignore")
        return CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.model_info.name,
            choices=[CompletionChoice(text=text, finish_reason="stop" if output.finished else "length")],
            usage=usage,
        )

    def _fail_all(self) -> None:
        with self._wake:
            self._closing = True
        for sequence, _ in self._arrived:
            sequence.on_end(sequence, Outcome.FAILED)
        for scheduler in self._schedulers():
            scheduler.fail_all()


def _encode_fixed(text: str, vocabulary: Vocabulary) -> list[int]:
    """The tokens of a fixed segment. Raises PromptEmpty if the vocabulary cannot express it."""
    tokens = vocabulary.encode(text.encode())
    if vocabulary.decode(tokens) != text.encode():
        raise PromptEmpty("the model's tokens cannot express a segment's text")
    return tokens


def _longest_run(requested: list[Segment], segments: list[OutputSegment]) -> int:
    """The most tokens that follow the prompt at any time; a `from_prompt` segment starts right after the prompt."""
    runs = [0]
    for given, segment in zip(requested, segments, strict=True):
        if segment.from_prompt:
            runs.append(0)
        runs[-1] += len(segment.content) if isinstance(segment.content, list) else given.max_tokens
    return max(runs)
