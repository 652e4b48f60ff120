"""What an OpenAI-compatible server in the engine's place can do, found out by asking. Knows nothing of connections."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MORE_SAMPLING = {"top_k": 40, "min_p": 0.05}
# How servers are told of a grammar: llama-server, vLLM of before 2025 (and SGLang's OpenAI dialect), vLLM.
GRAMMAR_FIELDS: dict[str, Callable[[str], Any]] = {
    "grammar": lambda grammar: grammar,
    "guided_grammar": lambda grammar: grammar,
    "structured_outputs": lambda grammar: {"grammar": grammar},
}
# No model says this by itself: who answers it follows grammars.
PROBE_TEXT = "zxqj7"


@dataclass(frozen=True)
class Abilities:
    """What a remote server was found to take: the field of a grammar, None where it follows none; top_k and min_p.

    `good_until` (time.monotonic()): past is when to ask again, because the server's answers left it unsure.
    """

    grammar_field: str | None
    more_sampling: bool
    good_until: float = math.inf


@dataclass(frozen=True)
class Probed:
    """The answer to a probe, None where the server refused it; not `sure` where it answered 5xx instead."""

    text: str | None
    sure: bool = True


def probe(ask: Callable[[dict[str, Any]], Probed], *, model: str, again_s: float) -> Abilities:
    """Asks for a text that only a grammar gives, under each name that servers know one by.

    `again_s`: for how long an answer counts that left something unsure. Raises whatever `ask` does.
    """
    body = {"model": model, "prompt": "Say a word:", "max_tokens": 8, "temperature": 0.0}
    grammar = f'root ::= "{PROBE_TEXT}"'
    more = ask(body | MORE_SAMPLING)
    held, sure = None, more.sure
    for field, value in GRAMMAR_FIELDS.items():
        probed = ask(body | {field: value(grammar)})
        if probed.text == PROBE_TEXT:
            held, sure = field, more.sure
            break
        sure = sure and probed.sure
    return Abilities(held, more.text is not None, math.inf if sure else time.monotonic() + again_s)
