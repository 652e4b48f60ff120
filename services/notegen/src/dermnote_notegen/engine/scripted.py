"""A model without weights for tests and dry runs (NOTEGEN_MODEL=scripted): reads facts back, or follows a grammar."""

import json
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry

from dermnote_contracts.completions import CompletionChoice, CompletionRequest, CompletionResponse, CompletionUsage
from dermnote_notegen.engine.model import GrammarRefused, Origin

# Said of a patient, it ends the process that has it in hand, as an assert in llama.cpp would. No data set has this age.
DEADLY = "119.25-year-old"
GBNF_PART = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z][A-Za-z0-9-]*|\|)')


class ScriptedModel:
    """Answers with `texts` in turn; without any, with a text of the request's grammar, or a sentence of its facts line.

    `token_s`: seconds that each word takes, so that a test can end a process in the middle of a note. A prompt with
    `DEADLY` in its facts ends it from within.
    """

    origin = Origin("scripted", None)
    alive = True

    def __init__(self, texts: list[str] | None = None, *, token_s: float = 0.0, slots: int = 32) -> None:
        self._texts = list(texts or [])
        self._token_s = token_s
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="scripted")
        self.asked: list[CompletionRequest] = []
        self.registry = CollectorRegistry()

    def info(self) -> dict[str, Any]:
        """What `/v1/models` says beside the model's name."""
        return {"sha256": None, "context_tokens": 100_000, "engine": "scripted", "grammar": True}

    def submit(self, request: CompletionRequest, *, stop: Callable[[], bool]) -> Future[CompletionResponse]:
        """`complete` in a thread, several at a time."""
        return self._threads.submit(self.complete, request, stop=stop)

    def complete(self, request: CompletionRequest, *, stop: Callable[[], bool]) -> CompletionResponse:
        """The next text, word by word; stops early when told to. Raises GrammarRefused."""
        text = self._texts[len(self.asked) % len(self._texts)] if self._texts else _answer(request)
        self.asked.append(request)
        words = []
        for word in text.split(" "):
            if stop():
                break
            time.sleep(self._token_s)
            if DEADLY in request.prompt:
                os._exit(1)
            words.append(word)
        return CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.origin.name,
            choices=[CompletionChoice(text=" " + " ".join(words), finish_reason="stop")],
            usage=CompletionUsage(prompt_tokens=len(request.prompt.split()), completion_tokens=len(words)),
        )


def _answer(request: CompletionRequest) -> str:
    if request.grammar is None:
        return _read_back(request.prompt)
    return _drawn(_rules(request.grammar), "root", random.Random(request.seed)).strip()


def _read_back(prompt: str) -> str:
    """The last facts line as a sentence: "61-year-old man; site back; diagnosis nevus" said in running words."""
    parts = prompt.rpartition("Facts: ")[2].partition(".\n")[0].split("; ")
    words = [part.replace("site ", "on the ", 1).replace("diagnosis ", "with ", 1) for part in parts]
    return f"Seen: {', '.join(words)}."


def _rules(grammar: str) -> dict[str, list[list[str]]]:
    """Rule -> alternatives -> parts, of GBNF that holds text, names and bars only."""
    rules: dict[str, list[list[str]]] = {}
    for line in grammar.strip().splitlines():
        name, _, body = line.partition(" ::= ")
        parts = GBNF_PART.findall(body)
        if not parts or "".join(parts) != re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", body):
            raise GrammarRefused(f"the scripted model reads text, names and bars only; rule {name} holds more")
        rules[name] = [[]]
        for part in parts:
            if part == "|":
                rules[name].append([])
            else:
                rules[name][-1].append(part)
    return rules


def _drawn(rules: Mapping[str, list[list[str]]], name: str, random_: random.Random) -> str:
    parts = random_.choice(rules[name])
    return "".join(json.loads(part) if part[0] == '"' else _drawn(rules, part, random_) for part in parts)
