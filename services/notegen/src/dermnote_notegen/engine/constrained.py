"""Decoding under a grammar: which tokens may come next, what is fixed already, and what was a choice (llguidance).

Fixed text is appended without sampling. A sampled token counts as a decision where two tokens were allowed of which
neither begins the other's text: tokens that only cut the same text differently are no choice.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer, grammar_from
from numpy.typing import NDArray

from dermnote_notegen.engine.model import GrammarRefused

Logits = NDArray[np.float32]


class Decoder(Protocol):
    """A model's state: `append` decodes tokens, `logits` are those after the last of them, shape [vocabulary]."""

    def append(self, tokens: list[int]) -> None: ...

    def logits(self) -> Logits: ...


@dataclass
class Constrained:
    """What came out. `finished`: the grammar is satisfied; false when `max_tokens` or `stop` ended it first."""

    tokens: list[int] = field(default_factory=list)
    forced: int = 0
    sampled: int = 0
    decisions: int = 0
    finished: bool = False


class Grammar:
    """A compiled grammar. Raises GrammarRefused for one that can't be parsed."""

    def __init__(self, gbnf: str, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        try:
            self._matcher = LLMatcher(tokenizer, grammar_from("gbnf", gbnf), log_level=0)
        except ValueError as wrong:
            raise GrammarRefused("the grammar is not valid GBNF") from wrong
        if self._matcher.is_error():
            raise GrammarRefused("the grammar is not valid GBNF")

    def decode(
        self,
        decoder: Decoder,
        *,
        max_tokens: int,
        temperature: float,
        random_: np.random.Generator,
        stop: Callable[[], bool],
    ) -> Constrained:
        """Decode until the grammar is satisfied, `max_tokens` is reached or `stop()` is true."""
        done = Constrained()
        while len(done.tokens) < max_tokens and not stop():
            if fixed := self._matcher.compute_ff_tokens():
                fixed = fixed[: max_tokens - len(done.tokens)]
                done.forced += len(fixed)
                self._take(fixed, done)
            elif not self._matcher.is_stopped():
                allowed = self._allowed()
                token = int(random_.choice(allowed, p=_probabilities(decoder.logits()[allowed], temperature)))
                done.sampled += 1
                done.decisions += self._is_choice(allowed)
                if token == self._tokenizer.eos_token:
                    done.finished = True
                    return done
                fixed = [token]
                self._take(fixed, done)
            if self._matcher.is_stopped():
                done.finished = True
                return done
            decoder.append(fixed)
        return done

    def _take(self, tokens: list[int], done: Constrained) -> None:
        if not self._matcher.consume_tokens(tokens):
            raise GrammarRefused(f"the grammar came to a stop: {self._matcher.get_error()}")
        done.tokens += tokens

    def _allowed(self) -> NDArray[np.int64]:
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        return np.flatnonzero(bits[: self._tokenizer.vocab_size])

    def _is_choice(self, allowed: NDArray[np.int64]) -> bool:
        texts = sorted((self._tokenizer.decode_bytes([int(token)]) for token in allowed), key=len)
        return not all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts))


def _probabilities(logits: Logits, temperature: float) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.zeros(len(logits))
    if temperature == 0:
        weights[int(logits.argmax())] = 1
        return weights
    scaled = logits.astype(np.float64) / temperature
    weights += np.exp(scaled - scaled.max())
    weights /= weights.sum()
    return weights
