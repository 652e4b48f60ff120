"""A grammar over tokens (llguidance): what is fixed already, which tokens may come next, and what was a choice.

A sampled token counts as a decision where two tokens were allowed of which neither begins the other's text: tokens
that only cut the same text differently are no choice.
"""

import itertools
import re
import threading
from collections.abc import Iterable

import numpy as np
from llguidance import LLMatcher, LLTokenizer, grammar_from

from dermnote_notegen.engine.model import GrammarRefused
from dermnote_notegen.engine.sampling import Tokens

# A grammar of names, texts and bars only is written as Lark line by line: llguidance's own reader takes 1.7 ms more.
PLAIN_RULE = re.compile(r'([a-z][a-z0-9-]*) ::= ((?:"(?:[^"\\\n]|\\["\\n])*"|[a-z][a-z0-9-]*|\|| )+)')
TEXT_OR_NAME = re.compile(r'"(?:[^"\\]|\\.)*"|[a-z][a-z0-9-]*')


LONGEST_TOKEN_BYTES = 256
MATCHERS_KEPT = 512


class Vocabulary:
    """The bytes of a tokenizer's tokens. `ends`: the tokens that end a text."""

    def __init__(self, tokenizer: LLTokenizer, *, ends: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.size: int = tokenizer.vocab_size
        self.ends = frozenset((tokenizer.eos_token, *ends))
        self._texts: dict[int, bytes] = {}
        self._matchers: dict[str, LLMatcher] = {}
        self._lock = threading.Lock()

    def text(self, token: int) -> bytes:
        """A token's bytes."""
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode_bytes([token])
        return self._texts[token]

    def matcher(self, gbnf: str) -> LLMatcher:
        """A matcher at the beginning of a grammar. Sentences without a patient's facts come again and again: those
        compiled last are kept.
        """
        with self._lock:
            kept = self._matchers.pop(gbnf, None)
        kept = kept or _compiled(gbnf, self.tokenizer)
        with self._lock:
            self._matchers[gbnf] = kept
            if len(self._matchers) > MATCHERS_KEPT:
                self._matchers.pop(next(iter(self._matchers)))
        return kept.deep_copy()

    def is_choice(self, allowed: Tokens) -> bool:
        """False where every allowed token begins the next longer one: they cut the same text differently."""
        if len(allowed) > LONGEST_TOKEN_BYTES:  # so many can't all be of different lengths
            return True
        texts = sorted((self.text(int(token)) for token in allowed), key=len)
        return not all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts))


class Grammar:
    """A compiled grammar and how far a text has come in it. Raises GrammarRefused for one that can't be parsed.

    llguidance raises nothing when a grammar is more than it can do: its matcher then says that it has stopped, and that
    only an end may follow. So every answer of that kind is asked about, and all methods may raise GrammarRefused.
    """

    def __init__(self, gbnf: str, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._matcher = vocabulary.matcher(gbnf)

    @property
    def satisfied(self) -> bool:
        """True when nothing may follow: it must not be asked for more."""
        stopped = bool(self._matcher.is_stopped())
        if stopped:
            self._check()
        return stopped

    def fixed(self, *, most: int) -> list[int]:
        """The tokens that must follow now, `most` of them at most; they are taken at once."""
        tokens: list[int] = self._matcher.compute_ff_tokens()[:most]
        if tokens:
            self.take(*tokens)
        return tokens

    def takes(self, token: int) -> bool:
        """Whether `token` may follow; takes nothing."""
        valid = bool(self._matcher.validate_tokens([token]) == 1)
        self._check()
        return valid

    def allowed(self) -> Tokens:
        """Ids of the tokens that may follow, ascending."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        filled = np.flatnonzero(mask)
        bits = np.unpackbits(mask[filled], bitorder="little").reshape(-1, 8)
        rows, columns = np.nonzero(bits)
        tokens: Tokens = filled[rows] * 8 + columns
        return tokens[tokens < self._vocabulary.size]

    def take(self, *tokens: int) -> None:
        """Go on behind `tokens`; raises GrammarRefused where they may not follow."""
        if not self._matcher.consume_tokens(list(tokens)):
            raise GrammarRefused(f"the grammar came to a stop: {self._matcher.get_error()}")

    def _check(self) -> None:
        """Some 50 ns, beside 60 us for a mask."""
        if self._matcher.is_error():
            raise GrammarRefused(f"the grammar came to a stop: {self._matcher.get_error()}")


def _compiled(gbnf: str, tokenizer: LLTokenizer) -> LLMatcher:
    try:
        matcher = LLMatcher(tokenizer, _grammar(gbnf), log_level=0)
    except ValueError as wrong:
        raise GrammarRefused("the grammar is not valid GBNF") from wrong
    if matcher.is_error():
        raise GrammarRefused("the grammar is not valid GBNF")
    return matcher


def _grammar(gbnf: str) -> str:
    """llguidance's own form of a grammar."""
    lines = [PLAIN_RULE.fullmatch(line) for line in gbnf.strip().split("\n")]
    if not all(lines):
        return grammar_from("gbnf", gbnf)
    rules = [f"{_lark_name(line[1])}: {TEXT_OR_NAME.sub(_lark, line[2])}" for line in lines if line]
    return LLMatcher.grammar_from_lark("\n".join(rules))


def _lark(part: re.Match[str]) -> str:
    return part[0] if part[0].startswith('"') else _lark_name(part[0])


def _lark_name(name: str) -> str:
    return "start" if name == "root" else f"r_{name.replace('-', '_')}"
