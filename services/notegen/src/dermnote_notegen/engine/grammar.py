"""Grammars over tokens (llguidance): which tokens are forced, which are allowed next, and what counts as a decision.

A sampled token is a decision if two tokens were allowed and neither one's text is a prefix of the other's: tokens
that only split the same text differently are not a choice.
"""

import itertools
import re
import threading
from collections.abc import Iterable

import numpy as np
from llguidance import LLMatcher, LLTokenizer, grammar_from

from dermnote_notegen.engine.model import GrammarError
from dermnote_notegen.engine.sampling import TokenIds

# A rule of names, literals and bars only is translated to Lark directly: llguidance's GBNF reader takes 1.7 ms more.
PLAIN_RULE = re.compile(r'([a-z][a-z0-9-]*) ::= ((?:"(?:[^"\\\n]|\\["\\n])*"|[a-z][a-z0-9-]*|\|| )+)')
LITERAL_OR_NAME = re.compile(r'"(?:[^"\\]|\\.)*"|[a-z][a-z0-9-]*')
MAX_TOKEN_BYTES = 256
MATCHER_CACHE_SIZE = 512


class Vocabulary:
    """A tokenizer's tokens as bytes, and its compiled grammars. `end_tokens`: tokens that end a text."""

    def __init__(self, tokenizer: LLTokenizer, *, end_tokens: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.size: int = tokenizer.vocab_size
        self.end_tokens = frozenset((tokenizer.eos_token, *end_tokens))
        self._bytes: dict[int, bytes] = {}
        self._matchers: dict[str, LLMatcher] = {}
        self._lock = threading.Lock()

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token."""
        if token not in self._bytes:
            self._bytes[token] = self.tokenizer.decode_bytes([token])
        return self._bytes[token]

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of a list of tokens."""
        return b"".join(map(self.token_bytes, tokens))

    def encode(self, text: bytes) -> list[int]:
        """Tokens of a text that continues another one; they decode to the text if the vocabulary can express it.

        SentencePiece vocabularies put a space before what looks like a beginning. llguidance prevents this with a
        marker in front; where that fails, the longest matching tokens are used.
        """
        tokens: list[int] = self.tokenizer.tokenize_bytes(text)
        if self.decode(tokens) != text:
            tokens = self.tokenizer.greedy_tokenize(text.decode(errors="ignore"))
        return tokens

    def matcher(self, gbnf: str) -> LLMatcher:
        """A matcher at the beginning of a grammar. Sentences without patient facts recur, so compiled grammars are
        cached, the least recently used evicted first.
        """
        with self._lock:
            matcher = self._matchers.pop(gbnf, None)
        matcher = matcher or _compile(gbnf, self.tokenizer)
        with self._lock:
            self._matchers[gbnf] = matcher
            if len(self._matchers) > MATCHER_CACHE_SIZE:
                self._matchers.pop(next(iter(self._matchers)))
        return matcher.deep_copy()

    def is_choice(self, allowed: TokenIds) -> bool:
        """False if every allowed token is a prefix of the next longer one: they split the same text differently."""
        if len(allowed) > MAX_TOKEN_BYTES:  # more tokens than possible lengths
            return True
        texts = sorted((self.token_bytes(int(token)) for token in allowed), key=len)
        return not all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts))


class Grammar:
    """A compiled grammar and the current position in it. Raises GrammarError if the grammar is invalid.

    llguidance does not raise when a grammar exceeds its limits: the matcher then reports that it has stopped and
    allows only an end token. Every such answer is checked, so all methods may raise GrammarError.
    """

    def __init__(self, gbnf: str, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._matcher = vocabulary.matcher(gbnf)

    @property
    def finished(self) -> bool:
        """True if nothing may follow; no other method may be called then."""
        stopped = bool(self._matcher.is_stopped())
        if stopped:
            self._check()
        return stopped

    def advance_forced(self, *, limit: int) -> list[int]:
        """Advance over the tokens that must come next, at most `limit`, and return them."""
        tokens: list[int] = self._matcher.compute_ff_tokens()[:limit]
        if tokens:
            self.advance(*tokens)
        return tokens

    def accepts(self, token: int) -> bool:
        """Whether `token` may come next; does not advance."""
        valid = bool(self._matcher.validate_tokens([token]) == 1)
        self._check()
        return valid

    def allowed(self) -> TokenIds:
        """Ids of the tokens that may come next, ascending."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        filled = np.flatnonzero(mask)
        bits = np.unpackbits(mask[filled], bitorder="little").reshape(-1, 8)
        rows, columns = np.nonzero(bits)
        tokens: TokenIds = filled[rows] * 8 + columns
        return tokens[tokens < self._vocabulary.size]

    def advance(self, *tokens: int) -> None:
        """Advance over `tokens`; raises GrammarError if they are not allowed."""
        if not self._matcher.consume_tokens(list(tokens)):
            raise GrammarError(f"the grammar stopped: {self._matcher.get_error()}")

    def _check(self) -> None:
        """Takes 50 ns; a mask takes 60 us."""
        if self._matcher.is_error():
            raise GrammarError(f"the grammar stopped: {self._matcher.get_error()}")


def _compile(gbnf: str, tokenizer: LLTokenizer) -> LLMatcher:
    try:
        matcher = LLMatcher(tokenizer, _to_llguidance(gbnf), log_level=0)
    except ValueError as error:
        raise GrammarError("the grammar is not valid GBNF") from error
    if matcher.is_error():
        raise GrammarError("the grammar is not valid GBNF")
    return matcher


def _to_llguidance(gbnf: str) -> str:
    """The grammar in llguidance's own format."""
    lines = [PLAIN_RULE.fullmatch(line) for line in gbnf.strip().split("\n")]
    if not all(lines):
        return grammar_from("gbnf", gbnf)
    rules = [f"{_lark_name(line[1])}: {LITERAL_OR_NAME.sub(_to_lark, line[2])}" for line in lines if line]
    return LLMatcher.grammar_from_lark("\n".join(rules))


def _to_lark(part: re.Match[str]) -> str:
    return part[0] if part[0].startswith('"') else _lark_name(part[0])


def _lark_name(name: str) -> str:
    return "start" if name == "root" else f"r_{name.replace('-', '_')}"
