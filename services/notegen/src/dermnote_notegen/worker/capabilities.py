"""Capabilities of a remote OpenAI-compatible server, found by probing it. Opens no connections itself."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dermnote_contracts.completions import CompletionRequest

EXTRA_SAMPLING = {"top_k": 40, "min_p": 0.05}
# Request fields that can carry a grammar: in llama-server, in vLLM before 0.12, in later versions of vLLM.
GRAMMAR_FIELDS: dict[str, Callable[[str], Any]] = {
    "grammar": lambda grammar: grammar,
    "guided_grammar": lambda grammar: grammar,
    "structured_outputs": lambda grammar: {"grammar": grammar},
}
# Fields that are removed for a remote server; a grammar is sent in the field that the probe found.
REMOVED_FIELDS = {"grammar", "segments", "deterministic", "deadline_s"}
# No model writes this without a grammar, so a server that returns it follows the grammar.
PROBE_TEXT = "zxqj7"


@dataclass(frozen=True)
class Capabilities:
    """Fields that a remote server accepts. `grammar_field`: None if it supports no grammars.

    `extra_sampling`: whether it accepts top_k and min_p. `valid_until` (time.monotonic()): when to probe again if the
    server's answers were inconclusive.
    """

    grammar_field: str | None
    extra_sampling: bool
    valid_until: float = math.inf

    @property
    def expired(self) -> bool:
        """Whether the server must be probed again."""
        return time.monotonic() > self.valid_until

    def body(self, request: CompletionRequest, *, model: str) -> dict[str, Any]:
        """A request with only the fields that the server accepts."""
        excluded = REMOVED_FIELDS | (set() if self.extra_sampling else set(EXTRA_SAMPLING))
        body = request.model_dump(mode="json", exclude=excluded) | {"model": model}
        if request.grammar is not None and self.grammar_field is not None:
            body[self.grammar_field] = GRAMMAR_FIELDS[self.grammar_field](request.grammar)
        return body


@dataclass(frozen=True)
class ProbeAnswer:
    """The answer to a probe. `text`: None without a completion; `conclusive`: False if every try ended in a 5xx."""

    text: str | None
    conclusive: bool = True


def probe(send: Callable[[dict[str, Any]], ProbeAnswer], *, model: str, retry_after_s: float) -> Capabilities:
    """Send a request with the extra sampling settings, then one per known grammar field until the grammar is followed.

    `retry_after_s`: how long inconclusive answers are valid. Errors of `send` propagate.
    """
    body = {"model": model, "prompt": "Say a word:", "max_tokens": 8, "temperature": 0.0}
    grammar = f'root ::= "{PROBE_TEXT}"'
    sampling = send(body | EXTRA_SAMPLING)
    grammar_field, conclusive = None, sampling.conclusive
    for field, value in GRAMMAR_FIELDS.items():
        answer = send(body | {field: value(grammar)})
        if answer.text == PROBE_TEXT:
            grammar_field, conclusive = field, sampling.conclusive
            break
        conclusive = conclusive and answer.conclusive
    valid_until = math.inf if conclusive else time.monotonic() + retry_after_s
    return Capabilities(grammar_field, sampling.text is not None, valid_until)
