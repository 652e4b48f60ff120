"""A model without weights for tests and dry runs (NOTEGEN_MODEL=scripted): repeats the facts or follows a grammar."""

import json
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry

from dermnote_contracts.completions import CompletionChoice, CompletionRequest, CompletionResponse, CompletionUsage
from dermnote_notegen.engine.model import CompletionFuture, GrammarError, ModelInfo

# A patient of this age crashes the process, as an assert in llama.cpp would. No data set contains this age.
DEADLY = "119.25-year-old"
GBNF_PART = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z][A-Za-z0-9-]*|\|)')


class ScriptedModel:
    """Answers with `texts` in turn. If there are none, it answers with a random text that the request's grammar allows
    or, for a request without a grammar, with the last `Facts:` line of the prompt as a sentence.

    `token_s`: seconds per word, so that a test can kill a process in the middle of a note. A prompt that contains
    `DEADLY` crashes the process.
    """

    model_info = ModelInfo("scripted", None)
    alive = True

    def __init__(self, texts: list[str] | None = None, *, token_s: float = 0.0, slots: int = 32) -> None:
        self._texts = list(texts or [])
        self._token_s = token_s
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="scripted")
        self.requests: list[CompletionRequest] = []
        self.registry = CollectorRegistry()

    def info(self) -> dict[str, Any]:
        """The fields of `/v1/models` besides the model's name."""
        return {"sha256": None, "context_tokens": 100_000, "engine": "scripted", "grammar": True}

    def submit(self, request: CompletionRequest, *, cancelled: Callable[[], bool]) -> CompletionFuture:
        """Run `complete` in a thread pool."""
        return self._threads.submit(self.complete, request, cancelled=cancelled)

    def complete(self, request: CompletionRequest, *, cancelled: Callable[[], bool]) -> CompletionResponse:
        """Generate the next text word by word, until it ends or the request is cancelled. Raises GrammarError."""
        text = self._texts[len(self.requests) % len(self._texts)] if self._texts else _answer(request)
        self.requests.append(request)
        words = []
        for word in text.split(" "):
            if cancelled():
                break
            time.sleep(self._token_s)
            if DEADLY in request.prompt:
                os._exit(1)
            words.append(word)
        return CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.model_info.name,
            choices=[CompletionChoice(text=" " + " ".join(words), finish_reason="stop")],
            usage=CompletionUsage(prompt_tokens=len(request.prompt.split()), completion_tokens=len(words)),
        )


def _answer(request: CompletionRequest) -> str:
    if request.grammar is None:
        return _repeat_facts(request.prompt)
    return _sample(_rules(request.grammar), "root", random.Random(request.seed)).strip()


def _repeat_facts(prompt: str) -> str:
    """The last facts line ("61-year-old man; site back; diagnosis nevus") as a sentence."""
    parts = prompt.rpartition("Facts: ")[2].partition(".\n")[0].split("; ")
    words = [part.replace("site ", "on the ", 1).replace("diagnosis ", "with ", 1) for part in parts]
    return f"Seen: {', '.join(words)}."


def _rules(grammar: str) -> dict[str, list[list[str]]]:
    """Parse GBNF that contains literals, names and bars only: rule -> alternatives -> parts."""
    rules: dict[str, list[list[str]]] = {}
    for line in grammar.strip().splitlines():
        name, _, body = line.partition(" ::= ")
        parts = GBNF_PART.findall(body)
        if not parts or "".join(parts) != re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", body):
            raise GrammarError(f"the scripted model supports literals, names and bars only; rule {name} contains more")
        rules[name] = [[]]
        for part in parts:
            if part == "|":
                rules[name].append([])
            else:
                rules[name][-1].append(part)
    return rules


def _sample(rules: Mapping[str, list[list[str]]], name: str, random_: random.Random) -> str:
    parts = random_.choice(rules[name])
    return "".join(json.loads(part) if part[0] == '"' else _sample(rules, part, random_) for part in parts)
