"""A GGUF through llama-cpp-python: the only file that imports it. One request after the other, prefix kept."""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp.llama_grammar import LlamaGrammar

from dermnote_contracts.completions import (
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    CompletionUsage,
    PromptTokensDetails,
)
from dermnote_notegen.engine.model import GrammarRefused, PromptTooLong


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

    def complete(self, request: CompletionRequest, *, stop: Callable[[], bool]) -> CompletionResponse:
        """One completion; raises PromptTooLong or GrammarRefused. `stop` is asked after every token."""
        prompt = self._llama.tokenize(request.prompt.encode(), add_bos=True, special=False)
        if len(prompt) + request.max_tokens > self.context_tokens:
            raise PromptTooLong(f"{len(prompt)} + {request.max_tokens} tokens, context {self.context_tokens}")
        if request.deterministic:
            self._llama.reset()  # type: ignore[no-untyped-call]
        cached = self._shared_prefix(prompt)
        answer = self._llama.create_completion(
            prompt,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=request.stop,
            grammar=self._grammar(request.grammar),
            stopping_criteria=llama_cpp.StoppingCriteriaList([lambda _ids, _logits: stop()]),
        )
        return self._response(answer, prompt_tokens=len(prompt), cached=cached)

    def _shared_prefix(self, prompt: list[int]) -> int:
        held = self._llama.input_ids[: self._llama.n_tokens].tolist()
        shared = llama_cpp.Llama.longest_token_prefix(held, prompt)
        return int(min(shared, len(prompt) - 1))

    def _grammar(self, text: str | None) -> LlamaGrammar | None:
        """The grammar, after llama.cpp has parsed it once: sampling with one that it can't parse ends the process."""
        if text is None:
            return None
        vocabulary = self._llama._model.vocab
        sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not sampler:
            raise GrammarRefused("the grammar is not valid GBNF")
        llama_cpp.llama_sampler_free(sampler)
        return LlamaGrammar.from_string(text, verbose=False)

    def _response(self, answer: Any, *, prompt_tokens: int, cached: int) -> CompletionResponse:
        choice = answer["choices"][0]
        sampled = answer["usage"]["completion_tokens"]
        return CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            choices=[CompletionChoice(text=choice["text"], finish_reason=choice["finish_reason"])],
            usage=CompletionUsage(
                prompt_tokens=prompt_tokens,
                completion_tokens=sampled,
                prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
            ),
        )
