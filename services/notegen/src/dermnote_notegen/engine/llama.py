"""A GGUF through llama-cpp-python: the only file that imports it. One request after the other, prefix kept."""

import os
import time
import uuid
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import llama_cpp
import numpy as np
from llguidance import LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab

from dermnote_contracts.completions import (
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    CompletionUsage,
    PromptTokensDetails,
)
from dermnote_notegen.engine.constrained import Constrained, Grammar, Logits
from dermnote_notegen.engine.model import PromptTooLong


class LlamaModel:
    """`llama_cpp.Llama`, which keeps the longest common prefix with its last prompt in its KV cache."""

    engine = f"llama-cpp-python {llama_cpp.__version__}"

    def __init__(self, path: Path, *, name: str, sha256: str, context_tokens: int, threads: int | None) -> None:
        self.name = name
        self.sha256: str | None = sha256
        self.context_tokens = context_tokens
        count = threads or os.cpu_count() or 1
        self._llama = llama_cpp.Llama(
            str(path), n_ctx=context_tokens, n_threads=count, n_threads_batch=count, verbose=False
        )

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return lltokenizer_from_vocab(self._llama._model.vocab)

    def complete(self, request: CompletionRequest, *, stop: Callable[[], bool]) -> CompletionResponse:
        """One completion; raises PromptTooLong or GrammarRefused. `stop` is asked after every token."""
        prompt = self._llama.tokenize(request.prompt.encode(), add_bos=True, special=False)
        if len(prompt) + request.max_tokens > self.context_tokens:
            raise PromptTooLong(f"{len(prompt)} + {request.max_tokens} tokens, context {self.context_tokens}")
        if request.deterministic:
            self._llama.reset()  # type: ignore[no-untyped-call]
        if request.grammar is not None:
            return self._constrained(request, prompt, stop=stop)
        return self._free(request, prompt, stop=stop)

    def _free(self, request: CompletionRequest, prompt: list[int], *, stop: Callable[[], bool]) -> CompletionResponse:
        cached = self._shared_prefix(prompt)
        answer = self._llama.create_completion(
            prompt,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=request.stop,
            stopping_criteria=llama_cpp.StoppingCriteriaList([lambda _ids, _logits: stop()]),
        )
        choice = answer["choices"][0]  # type: ignore[index]
        sampled = answer["usage"]["completion_tokens"]  # type: ignore[index]
        usage = _usage(prompt=len(prompt), cached=cached, forced=0, sampled=sampled, decisions=sampled)
        return self._response(choice["text"], choice["finish_reason"], usage)

    def _constrained(
        self, request: CompletionRequest, prompt: list[int], *, stop: Callable[[], bool]
    ) -> CompletionResponse:
        grammar = Grammar(request.grammar or "", self._tokenizer)
        cached = self._shared_prefix(prompt)
        self._llama.n_tokens = cached
        self.append(prompt[cached:])
        done = grammar.decode(
            self,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            random_=np.random.default_rng(request.seed),
            stop=stop,
        )
        usage = _usage(
            prompt=len(prompt), cached=cached, forced=done.forced, sampled=done.sampled, decisions=done.decisions
        )
        return self._response(self._text(done), "stop" if done.finished else "length", usage)

    def _text(self, done: Constrained) -> str:
        return self._tokenizer.decode_bytes(done.tokens).decode("utf-8", errors="ignore")

    def append(self, tokens: list[int]) -> None:
        """Decode tokens after those that are held."""
        self._llama.eval(tokens)

    def logits(self) -> Logits:
        """Those after the last token, shape [vocabulary]; valid until the next `append`."""
        pointer = llama_cpp.llama_get_logits_ith(self._llama._ctx.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._tokenizer.vocab_size,))

    def _shared_prefix(self, prompt: list[int]) -> int:
        held = self._llama.input_ids[: self._llama.n_tokens].tolist()
        shared = llama_cpp.Llama.longest_token_prefix(held, prompt)
        return int(min(shared, len(prompt) - 1))

    def _response(self, text: str, finish_reason: str | None, usage: CompletionUsage) -> CompletionResponse:
        return CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            choices=[CompletionChoice(text=text, finish_reason=finish_reason)],
            usage=usage,
        )


def _usage(*, prompt: int, cached: int, forced: int, sampled: int, decisions: int) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=forced + sampled,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        forced_tokens=forced,
        decisions=decisions,
    )
