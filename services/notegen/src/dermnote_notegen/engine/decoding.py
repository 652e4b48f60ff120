"""What a sequence writes: from logits to its next tokens, until it ends. Knows neither batches nor llama.cpp."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dermnote_notegen.engine.grammar import Grammar, Vocabulary
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


def tokens_of(text: bytes, vocabulary: Vocabulary) -> list[int]:
    """Tokens of a text that follows others; their bytes are the text's where the vocabulary has tokens for all of it.

    Vocabularies of SentencePiece put a space before what they take for a beginning: llguidance hides a mark in front
    from them, and where that fails the longest tokens that fit are taken.
    """
    tokens: list[int] = vocabulary.tokenizer.tokenize_bytes(text)
    if b"".join(map(vocabulary.text, tokens)) != text:
        tokens = vocabulary.tokenizer.greedy_tokenize(text.decode(errors="ignore"))
    return tokens


class Program(Protocol):
    """One sequence's writing. `begin` once; then `next` with the logits after everything that it returned so far."""

    written: Written

    def begin(self) -> Move: ...

    def next(self, logits: Logits) -> Move: ...


class Stops:
    """Stop texts, looked for in what is written token by token."""

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary) -> None:
        self._texts = [text.encode() for text in texts]
        self._vocabulary = vocabulary

    def end(self, written: Written, token: int) -> bool:
        """Write `token`; true where a stop text ends the text, which is left out then."""
        piece = self._vocabulary.text(token)
        written.tokens.append(token)
        written.text += piece
        begins = self._begins(written.text, fresh=len(piece))
        if begins is not None:
            self._take_back(written, begins)
        return begins is not None

    def _begins(self, text: bytes, *, fresh: int) -> int | None:
        """Where the first stop text begins; only the last `fresh` bytes are new."""
        found = [text.find(stop, max(0, len(text) - fresh - len(stop) + 1)) for stop in self._texts]
        return min((at for at in found if at >= 0), default=None)

    def _take_back(self, written: Written, cut: int) -> None:
        """End the text at `cut`. What a token held before it is put into tokens of its own."""
        kept = len(written.text)
        while kept > cut:
            kept -= len(self._vocabulary.text(written.tokens.pop()))
        written.tokens += tokens_of(written.text[kept:cut], self._vocabulary)
        written.text = written.text[:cut]
        written.finished = True


class Free:
    """Samples until an end token, a stop text (left out of the text) or the limit."""

    def __init__(self, sampler: Sampler, vocabulary: Vocabulary, *, max_tokens: int, stop: Sequence[str] = ()) -> None:
        self.written = Written()
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        self._stops = Stops(stop, vocabulary)

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
        if self._stops.end(self.written, token):
            return Move([], ended=True)
        return Move([token], ended=len(self.written.tokens) >= self._max_tokens)


class Constrained:
    """Follows a grammar: what it fixes is taken unsampled, the rest is sampled among what it allows.

    It ends with its grammar, at a stop text (left out of the text, also where the grammar fixed it) or at the limit.
    """

    def __init__(
        self,
        grammar: Grammar,
        sampler: Sampler,
        vocabulary: Vocabulary,
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
    ) -> None:
        self.written = Written()
        self._grammar = grammar
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        self._stops = Stops(stop, vocabulary)

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
                self.written.decisions += self._vocabulary.is_choice(self._grammar.allowed())
                return token
        allowed = self._grammar.allowed()
        self.written.decisions += self._vocabulary.is_choice(allowed)
        return self._sampler.pick(logits, allowed)

    def _with_fixed(self, sampled: list[int]) -> Move:
        fixed = self._grammar.fixed(most=self._max_tokens - len(self.written.tokens) - len(sampled))
        tokens = [*sampled, *fixed]
        for place, token in enumerate(tokens):
            self.written.forced += place >= len(sampled)
            if self._stops.end(self.written, token):
                return Move([], ended=True)
        self.written.finished = self._grammar.satisfied
        return Move(tokens, ended=self.written.finished or len(self.written.tokens) >= self._max_tokens)


@dataclass(frozen=True)
class Part:
    """A piece of a text: fixed tokens, or a program. `from_prompt`: written as if right behind the prompt."""

    content: Sequence[int] | Program
    from_prompt: bool = False


class Segmented:
    """Fixed texts and programs in turn: what is fixed is decoded without being sampled (jump-forward).

    A part ends at its stop text, and the next one follows what came before that. One that samples freely may also end
    at its limit; a grammar that its limit cuts ends the whole text, for nothing goes well behind half a sentence.
    """

    def __init__(self, parts: Sequence[Part], vocabulary: Vocabulary) -> None:
        self.written = Written(finished=True)
        self._parts = list(parts)
        self._writing: Program
        self._vocabulary = vocabulary
        self._run: list[int] = []  # behind the prompt, without the part that is being written
        self._shown: list[int] = []  # behind the prompt, as the moves so far gave it

    def begin(self) -> Move:
        """The fixed tokens before the first choice."""
        return self._to_next_choice()

    def next(self, logits: Logits) -> Move:
        """The running part's move; where that ends it, what is fixed behind it too."""
        move = self._writing.next(logits)
        if move.ended:
            self._close(self._writing)
            return self._to_next_choice()
        self._shown += move.tokens
        return move

    def _to_next_choice(self) -> Move:
        while self._parts:
            part = self._parts.pop(0)
            if part.from_prompt:
                self._run = []
            if isinstance(part.content, Sequence):
                self._add(self._fixed(part.content))
                continue
            move = part.content.begin()
            if not move.ended:
                self._writing = part.content
                return self._shown_to([*self._run, *move.tokens])
            self._close(part.content)
        return Move([], ended=True)

    def _shown_to(self, run: list[int]) -> Move:
        """What takes the model from the tokens that it was shown to `run`.

        A stop text may have taken some of those back, or left none to add. Then all of `run` follows the prompt once
        more; a cache that shares prefixes still holds what was kept of it.
        """
        shown, self._shown = self._shown, run
        if len(run) > len(shown) and run[: len(shown)] == shown:
            return Move(run[len(shown) :])
        return Move(list(run), from_prompt=True)

    def _fixed(self, tokens: Sequence[int]) -> Written:
        return Written(list(tokens), b"".join(map(self._vocabulary.text, tokens)), forced=len(tokens), finished=True)

    def _close(self, part: Program) -> None:
        self._add(part.written)
        if isinstance(part, Constrained) and not part.written.finished:
            self._parts.clear()

    def _add(self, more: Written) -> None:
        self._run += more.tokens
        self.written.tokens += more.tokens
        self.written.text += more.text
        self.written.forced += more.forced
        self.written.sampled += more.sampled
        self.written.decisions += more.decisions
        self.written.finished = self.written.finished and more.finished
