"""What a sequence writes: from logits to its next tokens, until it ends. Knows neither batches nor llama.cpp."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dermnote_notegen.engine.constrained import Grammar, Vocabulary
from dermnote_notegen.engine.sampling import Logits, Sampler


@dataclass
class Written:
    """What came out. `finished`: it ended by itself, by a stop text or with its grammar; not by the token limit."""

    tokens: list[int] = field(default_factory=list)
    text: bytes = b""
    forced: int = 0
    sampled: int = 0
    decisions: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Move:
    """Tokens that follow; `ended`: nothing follows them, so they need not be decoded.

    `from_prompt`: they follow the prompt, not what was written since.
    """

    tokens: Sequence[int]
    ended: bool = False
    from_prompt: bool = False


class Program(Protocol):
    """One sequence's writing. `begin` once; then `next` with the logits after everything that it returned so far."""

    written: Written

    def begin(self) -> Move: ...

    def next(self, logits: Logits) -> Move: ...


class Free:
    """Samples until an end token, a stop text (left out of the text) or the limit."""

    def __init__(self, sampler: Sampler, vocabulary: Vocabulary, *, max_tokens: int, stop: Sequence[str] = ()) -> None:
        self.written = Written()
        self.stopped = False
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        self._stop = [text.encode() for text in stop]

    def begin(self) -> Move:
        """Nothing is known before the first logits."""
        return Move([])

    def next(self, logits: Logits) -> Move:
        """One sampled token."""
        token = self._sampler.pick(logits)
        self.written.sampled += 1
        self.written.decisions += 1
        if token in self._vocabulary.ends:
            self.written.finished = True
            return Move([], ended=True)
        self.written.tokens.append(token)
        self.written.text += self._vocabulary.text(token)
        if (cut := self._stopped_at(len(self._vocabulary.text(token)))) is not None:
            self.written.text = self.written.text[:cut]
            self.written.finished = self.stopped = True
        return Move([token], ended=self.written.finished or len(self.written.tokens) >= self._max_tokens)

    def _stopped_at(self, fresh: int) -> int | None:
        """Where the first stop text begins; only the last `fresh` bytes are new."""
        text = self.written.text
        found = [text.find(stop, max(0, len(text) - fresh - len(stop) + 1)) for stop in self._stop]
        return min((at for at in found if at >= 0), default=None)


class Constrained:
    """Follows a grammar: what it fixes is taken unsampled, the rest is sampled among what it allows."""

    def __init__(self, grammar: Grammar, sampler: Sampler, vocabulary: Vocabulary, *, max_tokens: int) -> None:
        self.written = Written()
        self._grammar = grammar
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens

    def begin(self) -> Move:
        """What the grammar fixes before any choice."""
        return self._with_fixed([])

    def next(self, logits: Logits) -> Move:
        """One sampled token and what it fixes."""
        token = self._sampled(logits)
        self.written.sampled += 1
        if token in self._vocabulary.ends:
            self.written.finished = True
            return Move([], ended=True)
        self._grammar.take(token)
        return self._with_fixed([token])

    def _sampled(self, logits: Logits) -> int:
        """Where top_k makes a sample cheap it is drawn first, and the vocabulary is masked only when it is refused.

        Without top_k the mask (60 us) costs less than a draw from the whole vocabulary (400 us), so it comes first.
        """
        if self._sampler.sampling.top_k:
            token = self._sampler.pick(logits)
            if self._grammar.takes(token):
                self.written.decisions += 1
                return token
        allowed = self._grammar.allowed()
        self.written.decisions += self._vocabulary.is_choice(allowed)
        return self._sampler.pick(logits, allowed)

    def _with_fixed(self, tokens: list[int]) -> Move:
        self.written.tokens += tokens
        fixed = self._grammar.fixed(most=self._max_tokens - len(self.written.tokens))
        self.written.tokens += fixed
        self.written.forced += len(fixed)
        self.written.text += b"".join(map(self._vocabulary.text, [*tokens, *fixed]))
        self.written.finished = self._grammar.satisfied
        return Move([*tokens, *fixed], ended=self.written.finished or len(self.written.tokens) >= self._max_tokens)


@dataclass(frozen=True)
class Part:
    """A piece of a text: fixed tokens, or a program. `from_prompt`: written as if right behind the prompt."""

    content: Sequence[int] | Program
    from_prompt: bool = False


class Segmented:
    """Fixed texts and programs in turn: what is fixed is decoded without being sampled (jump-forward).

    A part that samples freely ends at its stop text, and the next part follows what came before that.
    """

    def __init__(self, parts: Sequence[Part], vocabulary: Vocabulary) -> None:
        self.written = Written(finished=True)
        self._parts = list(parts)
        self._writing: Program
        self._vocabulary = vocabulary

    def begin(self) -> Move:
        """The fixed tokens before the first choice."""
        return self._to_next_choice([])

    def next(self, logits: Logits) -> Move:
        """The running part's move; where that ends it, what is fixed behind it too."""
        part = self._writing
        move = part.next(logits)
        if not move.ended:
            return move
        self._close(part)
        return self._to_next_choice(_before_stop(part, move))

    def _to_next_choice(self, tokens: list[int]) -> Move:
        back = False
        while self._parts:
            part = self._parts.pop(0)
            if part.from_prompt:
                tokens, back = [], True
            if isinstance(part.content, Sequence):
                tokens += part.content
                self._add(self._fixed(part.content))
                continue
            move = part.content.begin()
            tokens += move.tokens
            if not move.ended:
                self._writing = part.content
                return Move(tokens, from_prompt=back)
            self._close(part.content)
        return Move(tokens, ended=True)

    def _fixed(self, tokens: Sequence[int]) -> Written:
        return Written(list(tokens), b"".join(map(self._vocabulary.text, tokens)), forced=len(tokens))

    def _close(self, part: Program) -> None:
        self._add(part.written)
        self.written.finished = self.written.finished and part.written.finished

    def _add(self, more: Written) -> None:
        self.written.tokens += more.tokens
        self.written.text += more.text
        self.written.forced += more.forced
        self.written.sampled += more.sampled
        self.written.decisions += more.decisions


def _before_stop(part: Program, move: Move) -> list[int]:
    """A move's tokens, without the one that held a stop text."""
    cut = isinstance(part, Free) and part.stopped
    return list(move.tokens[:-1] if cut else move.tokens)
