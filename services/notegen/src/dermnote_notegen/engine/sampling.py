"""Chooses the next token: samples from logits, restricted to the tokens that a grammar (llguidance) allows.

Filters are applied in llama.cpp's order: top-k, top-p, min-p, temperature. A sampled token is a decision if at least
two of the allowed tokens lead to different texts. If each allowed token is a prefix of the next longer one, they only
split the same text differently, so there is no decision.
"""

import itertools
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLTokenizer, grammar_from
from numpy.typing import NDArray

from dermnote_notegen.engine.model import GrammarError

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]
# Tokens whose logit is further than this below the highest one (a probability ratio of e^-16) are considered only if
# fewer than top_k tokens are within this margin.
TOP_K_MARGIN = 16.0
# If every rule contains names, literals and bars only, the grammar is translated to Lark here, because llguidance's
# GBNF reader takes 1.7 ms longer.
PLAIN_RULE = re.compile(r'([a-z][a-z0-9-]*) ::= ((?:"(?:[^"\\\n]|\\["\\n])*"|[a-z][a-z0-9-]*|\|| )+)')
LITERAL_OR_NAME = re.compile(r'"(?:[^"\\]|\\.)*"|[a-z][a-z0-9-]*')
MAX_TOKEN_BYTES = 256
MATCHER_CACHE_SIZE = 512


class InvalidLogits(Exception):
    """The logits are NaN or infinite: the context or the model is broken."""


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 disable their filters."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Sampler:
    """Samples the tokens of one sequence with its own random state: equal seeds and logits give equal tokens."""

    def __init__(self, params: SamplingParams, *, seed: int) -> None:
        self.params = params
        self._random = np.random.default_rng(seed)

    def sample(self, logits: Logits, allowed: TokenIds | None = None) -> int:
        """One token id from `logits`, shape [vocabulary], restricted to `allowed` (ascending ids) if given.

        Raises InvalidLogits if one of the candidates is NaN or plus infinity, or if all are minus infinity.
        """
        candidates = logits if allowed is None else logits[allowed]
        chosen = self._sample_index(candidates)
        return chosen if allowed is None else int(allowed[chosen])

    def _sample_index(self, logits: Logits) -> int:
        if not np.isfinite(highest := logits.max()):  # NaN propagates through max
            raise InvalidLogits(f"the highest logit is {highest}: the context or the model is broken")
        if self.params.temperature == 0:
            return int(logits.argmax())
        indices, weights = _filtered(logits, self.params)
        at = np.searchsorted(weights.cumsum(), self._random.random() * weights.sum(), side="right")
        return int(indices[min(int(at), len(indices) - 1)])


def _filtered(logits: Logits, params: SamplingParams) -> tuple[TokenIds, NDArray[np.float64]]:
    """(indices, unnormalised probabilities) after all filters; the likeliest first if top_p is below 1."""
    indices = _top_k(logits, params)
    values = logits[indices].astype(np.float64)
    values -= values.max()
    if params.top_p < 1:
        mass = np.exp(values).cumsum()
        count = int(np.searchsorted(mass, params.top_p * mass[-1])) + 1
        indices, values = indices[:count], values[:count]
    if params.min_p > 0:
        near = values >= np.log(params.min_p)
        indices, values = indices[near], values[near]
    return indices, np.exp(values / params.temperature)


def _top_k(logits: Logits, params: SamplingParams) -> TokenIds:
    """The indices of the top_k highest logits (all if top_k is 0), sorted only if top_p needs the order."""
    count = params.top_k or len(logits)
    if count >= len(logits):
        indices = np.arange(len(logits))
    else:
        indices = np.flatnonzero(logits >= logits.max() - TOP_K_MARGIN)
        if len(indices) < count:
            indices = np.arange(len(logits))
        if len(indices) > count:
            indices = indices[np.argpartition(logits[indices], -count)[-count:]]
    if params.top_p < 1:
        indices = indices[np.argsort(-logits[indices], kind="stable")]
    return indices


class Vocabulary:
    """A tokenizer's tokens as bytes, and the grammars compiled for it. `end_tokens`: tokens that end a text."""

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
        """Tokenize a text that continues another one, so that the tokens decode to exactly this text if possible.

        SentencePiece tokenizers insert a space at the beginning of a text. llguidance prevents this with a marker
        before the text; where that fails, the longest matching tokens are used.
        """
        tokens: list[int] = self.tokenizer.tokenize_bytes(text)
        if self.decode(tokens) != text:
            tokens = self.tokenizer.greedy_tokenize(text.decode(errors="ignore"))
        return tokens

    def matcher(self, gbnf: str) -> LLMatcher:
        """A matcher at the beginning of a grammar. The grammars of sentences without patient facts recur, so compiled
        grammars are cached; the least recently used one is evicted first.
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
        """False if the allowed tokens only split the same text differently: each is a prefix of the next longer one."""
        if len(allowed) > MAX_TOKEN_BYTES:  # more tokens than possible lengths
            return True
        texts = sorted((self.token_bytes(int(token)) for token in allowed), key=len)
        return not all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts))


class Grammar:
    """A compiled grammar and the current position in it. Raises GrammarError if the grammar is invalid.

    llguidance does not raise when a grammar exceeds the parser's limits: the matcher then reports that it has stopped
    and allows only an end token. The matcher's state is checked after each call, so all methods may raise GrammarError.
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
        """Raise GrammarError if the matcher has failed. Takes 50 ns; computing a mask takes 60 us."""
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
