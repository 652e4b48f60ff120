"""One request inside the engine: what it generates from logits, its position in the prefix cache, and its outcome."""

import logging
import time
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from dermnote_notegen.engine.model import GrammarError
from dermnote_notegen.engine.prefix_cache import Node
from dermnote_notegen.engine.sampling import Grammar, Logits, Sampler, Vocabulary

log = logging.getLogger(__name__)
# Share of a request's token limit that is reserved in the cache: few texts need the whole limit, and if the cache is
# full, a sequence can be preempted.
RESERVED_SHARE = 0.5


@dataclass
class Output:
    """The generated text. `finished`: it ended by an end token, a stop text or its grammar, not by the token limit."""

    tokens: list[int] = field(default_factory=list)
    text: bytes = b""
    forced: int = 0
    sampled: int = 0
    decisions: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Continuation:
    """The next tokens of a sequence. `ended`: nothing follows them, so they need not be decoded.

    `from_prompt`: they follow the prompt directly, and replace the tokens generated so far.
    """

    tokens: abc.Sequence[int]
    ended: bool = False
    from_prompt: bool = False


class Decoder(Protocol):
    """Generates one sequence. Call `begin` once, then `next` with the logits after all tokens returned so far."""

    output: Output

    def begin(self) -> Continuation: ...

    def next(self, logits: Logits) -> Continuation: ...


class TextDecoder:
    """Samples until an end token, a stop text (removed from the text), the token limit, or the end of the grammar.

    With a grammar, forced tokens are appended without sampling, and the others are sampled among the allowed ones.
    """

    def __init__(
        self,
        sampler: Sampler,
        vocabulary: Vocabulary,
        *,
        max_tokens: int,
        stop: abc.Sequence[str] = (),
        grammar: Grammar | None = None,
    ) -> None:
        self.output = Output()
        self.grammar = grammar
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        self._stop_texts = [text.encode() for text in stop]

    def begin(self) -> Continuation:
        """The tokens that the grammar forces before any choice; none without a grammar."""
        return self._append([])

    def next(self, logits: Logits) -> Continuation:
        """One sampled token and the forced tokens that follow it."""
        token = self._sample(logits)
        self.output.sampled += 1
        if token in self._vocabulary.end_tokens:
            self.output.finished = True
            return Continuation([], ended=True)
        if self.grammar is not None:
            self.grammar.advance(token)
        return self._append([token])

    def _sample(self, logits: Logits) -> int:
        """Sample a token that the grammar allows. With top_k, sampling from the whole vocabulary is cheap, so only
        if the grammar rejects the token is another one sampled from the allowed tokens. Without top_k, tokens are
        sampled from the allowed ones at once: finding these (60 us) costs less than sampling from the whole
        vocabulary (400 us).
        """
        if self.grammar is None:
            self.output.decisions += 1
            return self._sampler.sample(logits)
        if self._sampler.params.top_k:
            token = self._sampler.sample(logits)
            if self.grammar.accepts(token):
                self.output.decisions += self._vocabulary.is_choice(self.grammar.allowed())
                return token
        allowed = self.grammar.allowed()
        self.output.decisions += self._vocabulary.is_choice(allowed)
        return self._sampler.sample(logits, allowed)

    def _append(self, sampled: list[int]) -> Continuation:
        forced: list[int] = []
        if self.grammar is not None:
            limit = self._max_tokens - len(self.output.tokens) - len(sampled)
            forced = self.grammar.advance_forced(limit=limit)
        tokens = [*sampled, *forced]
        for index, token in enumerate(tokens):
            self.output.forced += index >= len(sampled)
            if self._ends_with(token):
                return Continuation([], ended=True)
        self.output.finished = self.grammar is not None and self.grammar.finished
        return Continuation(tokens, ended=self.output.finished or len(self.output.tokens) >= self._max_tokens)

    def _ends_with(self, token: int) -> bool:
        """Append `token` to the output; true if it completes a stop text, which is then removed."""
        output, piece = self.output, self._vocabulary.token_bytes(token)
        output.tokens.append(token)
        output.text += piece
        # The text before this token contains no stop text, so a match must reach into the new bytes.
        found = [
            output.text.find(stop, max(0, len(output.text) - len(piece) - len(stop) + 1)) for stop in self._stop_texts
        ]
        begin = min((at for at in found if at >= 0), default=None)
        if begin is not None:
            self._truncate(begin)
        return begin is not None

    def _truncate(self, length: int) -> None:
        """Cut the text to `length` bytes. If a token is split, its first part is re-encoded."""
        output = self.output
        kept = len(output.text)
        while kept > length:
            kept -= len(self._vocabulary.token_bytes(output.tokens.pop()))
        output.tokens += self._vocabulary.encode(output.text[kept:length])
        output.text = output.text[:length]
        output.finished = True


@dataclass(frozen=True)
class OutputSegment:
    """A piece of a text: fixed tokens, or a decoder. `from_prompt`: generated as if directly after the prompt."""

    content: abc.Sequence[int] | TextDecoder
    from_prompt: bool = False


class SegmentedDecoder:
    """Generates a text from a list of fixed texts and decoders. Fixed texts need no sampling (jump-forward decoding).

    A segment ends at its stop text, which is removed, and the next segment continues from there. A segment without a
    grammar may also end at its token limit. If the limit cuts off a segment with a grammar, the whole text ends, since
    nothing sensible can follow half a sentence.
    """

    def __init__(self, segments: abc.Sequence[OutputSegment], vocabulary: Vocabulary) -> None:
        self.output = Output(finished=True)
        self._segments = list(segments)
        self._current: TextDecoder
        self._vocabulary = vocabulary
        self._tokens: list[int] = []  # the tokens after the prompt, without the current segment's
        self._shown: list[int] = []  # the tokens after the prompt that were returned so far

    def begin(self) -> Continuation:
        """The fixed tokens before the first choice."""
        return self._advance()

    def next(self, logits: Logits) -> Continuation:
        """The current segment's tokens; if they end it, also the fixed tokens after it."""
        continuation = self._current.next(logits)
        if continuation.ended:
            self._close(self._current)
            return self._advance()
        self._shown += continuation.tokens
        return continuation

    def _advance(self) -> Continuation:
        """All tokens up to the next choice."""
        while self._segments:
            segment = self._segments.pop(0)
            if segment.from_prompt:
                self._tokens = []
            if isinstance(segment.content, abc.Sequence):
                self._extend(self._fixed(segment.content))
                continue
            continuation = segment.content.begin()
            if not continuation.ended:
                self._current = segment.content
                return self._continue_to([*self._tokens, *continuation.tokens])
            self._close(segment.content)
        return Continuation([], ended=True)

    def _continue_to(self, tokens: list[int]) -> Continuation:
        """The continuation that turns the tokens returned so far into `tokens`.

        If a removed stop text included some of the returned tokens, or if there is nothing to add, all of `tokens` are
        returned again, to follow the prompt directly; a cache that shares prefixes still holds the common part.
        """
        shown, self._shown = self._shown, tokens
        if len(tokens) > len(shown) and tokens[: len(shown)] == shown:
            return Continuation(tokens[len(shown) :])
        return Continuation(list(tokens), from_prompt=True)

    def _fixed(self, tokens: abc.Sequence[int]) -> Output:
        return Output(list(tokens), self._vocabulary.decode(tokens), forced=len(tokens), finished=True)

    def _close(self, decoder: TextDecoder) -> None:
        self._extend(decoder.output)
        if decoder.grammar is not None and not decoder.output.finished:
            self._segments.clear()

    def _extend(self, more: Output) -> None:
        self._tokens += more.tokens
        self.output.tokens += more.tokens
        self.output.text += more.text
        self.output.forced += more.forced
        self.output.sampled += more.sampled
        self.output.decisions += more.decisions
        self.output.finished = self.output.finished and more.finished


class Outcome(Enum):
    """Outcome of a sequence; the values are labels of the metric `dermnote_engine_requests_total`."""

    COMPLETED = "written"
    CANCELLED = "stopped"
    CACHE_TOO_SMALL = "no_room"
    GRAMMAR_ERROR = "refused"
    FAILED = "broken"


@dataclass(eq=False)
class Sequence:
    """One request. It ends once `cancelled()` is true. Times are seconds of time.monotonic().

    `reusable`: other requests are likely to begin with the same tokens (a grammar allows few beginnings), so the branch
    stays cached after the sequence has ended.
    """

    decoder: Decoder
    prompt: list[int]
    max_tokens: int
    cancelled: Callable[[], bool]
    on_end: Callable[["Sequence", Outcome], None]
    reusable: bool = False
    arrived: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0
    cached_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    node: Node = field(default_factory=Node)
    stem: Node = field(default_factory=Node)
    reserved_cells: int = 0

    def begin(self) -> Outcome | None:
        """Set the first tokens. Returns the outcome if nothing needs to be decoded, else None."""
        continuation = self.run(self.decoder.begin)
        if isinstance(continuation, Outcome):
            return continuation
        self.tokens = [*self.prompt, *continuation.tokens]
        return Outcome.COMPLETED if continuation.ended else None

    def run(self, step: Callable[[], Continuation]) -> Continuation | Outcome:
        """Run a step of its decoder; an error in one sequence's grammar or sampling does not affect the others."""
        try:
            return step()
        except GrammarError:
            return Outcome.GRAMMAR_ERROR
        except Exception:
            log.exception("one request failed; the others are not affected")
            return Outcome.FAILED

    def cells_needed(self) -> int:
        """Estimated number of cells that it needs in total, including its current tokens."""
        remaining = max(0, self.max_tokens + len(self.prompt) - len(self.tokens))
        return len(self.tokens) + int(remaining * RESERVED_SHARE)
