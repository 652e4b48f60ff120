"""Continuous batching: decides which sequences run and what each step decodes for them. Not thread-safe.

A step decodes one batch: as far as it has room, each running sequence's tokens up to its next choice. Sequences join
and leave at every step. The model is behind the `Context` interface, so that tests can use fixed logits.
"""

import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from dermnote_notegen.engine.model import BatchToken, CacheFull, Context, ContextBroken
from dermnote_notegen.engine.prefix_cache import Branch, Node, NoFreeSequence, PrefixCache
from dermnote_notegen.engine.sampling import Logits
from dermnote_notegen.engine.sequence import Outcome, Sequence

# Chains (the tokens to decode for one sequence) of up to this length are never split; longer ones, such as prompts,
# fill the rest of each step piece by piece.
SHORT_TOKENS = 48

Pending = tuple[Node, list[Node]]
"""(deepest decoded node, the nodes to decode after it; an empty list if only the node's logits are missing)."""


@dataclass
class SchedulerStats:
    """Totals since the start."""

    steps: int = 0
    decoded_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    rebuilds: int = 0
    ended: int = 0


@dataclass
class Batch:
    """The tokens of one step, and the nodes that they decode."""

    tokens: list[BatchToken] = field(default_factory=list)
    chains: list[tuple[Branch, list[Node]]] = field(default_factory=list)
    temporary: list[Branch] = field(default_factory=list)
    logits_index: dict[Node, int] = field(default_factory=dict)


class Scheduler:
    """Runs up to `slots` sequences concurrently in batches of up to `step_tokens`.

    `unused_cells`: how many cells may hold branches that no running sequence uses; by default, all cells.
    `isolated`: every sequence runs alone and starts with an empty cache, so that its batches depend on it alone.
    """

    def __init__(
        self,
        context: Context,
        *,
        slots: int,
        step_tokens: int = 256,
        unused_cells: int | None = None,
        isolated: bool = False,
    ) -> None:
        self._context = context
        self._slots = 1 if isolated else slots
        self._step_tokens = step_tokens
        self._unused_cells = context.cells if unused_cells is None else unused_cells
        self._isolated = isolated
        self._steps = itertools.count(1)
        self._just_rebuilt = False
        self._full_at = -1
        self.cache = PrefixCache(context)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.stats = SchedulerStats()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it starts in one of the next steps. One that needs no decoding ends at once."""
        if (outcome := sequence.begin()) is not None:
            sequence.on_end(sequence, outcome)
        else:
            self.waiting.append(sequence)

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self.running or self.waiting)

    def step(self) -> None:
        """Drop cancelled sequences, admit new ones, decode one batch, and advance every sequence that got logits."""
        self._drop_cancelled()
        self._admit()
        batch = self._next_batch()
        if not batch.tokens:
            return
        try:
            self._context.decode(batch.tokens)
        except CacheFull:
            self._undo(batch)
            self._make_room()
        except ContextBroken:
            self._rebuild()
        else:
            self._just_rebuilt = False
            self._process(batch)

    def fail_all(self) -> None:
        """End all sequences as failed, leaving the cache as it is."""
        for sequence in [*self.running, *self.waiting]:
            sequence.on_end(sequence, Outcome.FAILED)
        self.running.clear()
        self.waiting.clear()

    def _drop_cancelled(self) -> None:
        for sequence in [sequence for sequence in self.running if sequence.cancelled()]:
            self._end(sequence, Outcome.CANCELLED)
        for sequence in [sequence for sequence in self.waiting if sequence.cancelled()]:
            self.waiting.remove(sequence)
            sequence.on_end(sequence, Outcome.CANCELLED)

    def _admit(self) -> None:
        if self.running and self.stats.ended == self._full_at:
            return  # until a sequence ends, the one that was just preempted would fill the cache again
        while self.waiting and len(self.running) < self._slots:
            reserved = sum(sequence.reserved_cells for sequence in self.running)
            if self.running and reserved + self.waiting[0].cells_needed() > self._context.cells:
                return
            self._start(self.waiting.popleft())

    def _start(self, sequence: Sequence) -> None:
        root = self.cache.root if self._context.shares else Node()
        sequence.stem = self.cache.acquire(root, sequence.prompt)
        anchor, _ = self.cache.missing(sequence.stem)
        sequence.node = self.cache.advance(sequence.stem, sequence.tokens[len(sequence.prompt) :])
        sequence.reserved_cells = sequence.cells_needed() - anchor.depth
        self.running.append(sequence)
        if not sequence.admitted:
            sequence.admitted = time.monotonic()
            sequence.cached_tokens = min(anchor.depth, len(sequence.prompt) - 1)
            self.stats.cached_tokens += sequence.cached_tokens
        if (logits := self.cache.logits(sequence.node)) is not None:
            self._advance(sequence, logits)

    def _next_batch(self) -> Batch:
        batch = Batch()
        short, long = self._pending(next(self._steps))
        # Short chains leave room for a piece of a long one, so that they cannot starve a prompt.
        piece = min(SHORT_TOKENS, self._step_tokens // 2)
        limit = self._step_tokens - (piece if long else 0)
        for anchor, chain in short:
            if len(batch.tokens) + max(1, len(chain)) <= limit or not batch.tokens:
                self._add_chain(batch, anchor, chain, complete=True)
        for anchor, chain in long:
            room = self._step_tokens - len(batch.tokens)
            if room >= piece or not batch.tokens:
                self._add_chain(batch, anchor, chain[:room], complete=room >= len(chain))
        return batch

    def _pending(self, step: int) -> tuple[list[Pending], list[Pending]]:
        """(short chains, long chains) to decode, each node once; each step starts with a different sequence."""
        short: list[Pending] = []
        long: list[Pending] = []
        first = step % max(1, len(self.running))
        for sequence in [*self.running[first:], *self.running[:first]]:
            anchor, chain = self.cache.missing(sequence.node)
            head = chain[0] if chain else sequence.node
            if head.planned_at != step:
                head.planned_at = step
                (long if len(chain) > SHORT_TOKENS else short).append((anchor, chain))
        return short, long

    def _add_chain(self, batch: Batch, anchor: Node, chain: list[Node], *, complete: bool) -> None:
        """Add a chain. An empty one means that only the logits of `anchor` are missing: its token is decoded again."""
        try:
            branch = self.cache.extend(anchor, chain) if chain else self.cache.fork(anchor.parent)
        except NoFreeSequence:
            return
        if chain:
            batch.chains.append((branch, chain))
        else:
            batch.temporary.append(branch)
        nodes = chain or [anchor]
        for node in nodes:
            batch.tokens.append(BatchToken(node.token, node.depth - 1, branch.seq_id, complete and node is nodes[-1]))
        if complete:
            batch.logits_index[nodes[-1]] = len(batch.tokens) - 1

    def _process(self, batch: Batch) -> None:
        self.stats.steps += 1
        self.stats.decoded_tokens += len(batch.tokens)
        for branch, chain in batch.chains:
            self.cache.mark_decoded(chain, branch)
        for branch in batch.temporary:
            self.cache.free(branch)
        ready = [sequence for sequence in self.running if sequence.node in batch.logits_index]
        for node, index in batch.logits_index.items():
            if node.visits > 1 or any(sequence.node is node and sequence.reusable for sequence in ready):
                self.cache.store_logits(node, self._context.logits(index))
        for sequence in ready:
            self._advance(sequence, self._context.logits(batch.logits_index[sequence.node]))
        self._evict_unused()

    def _evict_unused(self) -> None:
        """Evict the least recently used of the unused branches until these hold at most `unused_cells` cells."""
        if self.cache.cells_held <= self._unused_cells:
            return  # no need to count
        unused = self.cache.unused_cells(sequence.node for sequence in self.running)
        before = self.cache.cells_held
        while unused - (before - self.cache.cells_held) > self._unused_cells and self.cache.evict():
            pass

    def _advance(self, sequence: Sequence, logits: Logits) -> None:
        """Append the sequence's next tokens, and repeat this as long as the logits after them are cached."""
        known: Logits | None = logits
        while known is not None:
            continuation = sequence.run(partial(sequence.decoder.next, known))
            if isinstance(continuation, Outcome):
                self._end(sequence, continuation)
                return
            sequence.first_token = sequence.first_token or time.monotonic()
            if continuation.ended:
                self._end(sequence, Outcome.COMPLETED)
                return
            if continuation.from_prompt:
                self._back_to_prompt(sequence)
            sequence.tokens += continuation.tokens
            sequence.node = self.cache.advance(sequence.node, continuation.tokens)
            known = self.cache.logits(sequence.node)

    def _back_to_prompt(self, sequence: Sequence) -> None:
        sequence.tokens = list(sequence.prompt)
        self._release(sequence)
        if self._context.shares:
            sequence.node = self.cache.acquire(sequence.stem, [])
        else:
            sequence.node = self.cache.acquire(Node(), sequence.prompt)

    def _end(self, sequence: Sequence, outcome: Outcome) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        if self._isolated:
            self.cache.clear()
        self.stats.ended += 1
        sequence.on_end(sequence, outcome)

    def _release(self, sequence: Sequence) -> None:
        """Release the sequence's branch, and discard it if prefixes cannot be shared or reuse is unlikely."""
        self.cache.release(sequence.node)
        if not self._context.shares:
            self.cache.discard(sequence.node, stem=self.cache.root)
        elif not sequence.reusable:
            self.cache.discard(sequence.node, stem=sequence.stem)

    def _undo(self, batch: Batch) -> None:
        for branch, chain in batch.chains:
            self.cache.undo_extend(chain[0].parent, branch)
        for branch in batch.temporary:
            self.cache.free(branch)

    def _make_room(self) -> None:
        """Evict unused branches; if there are none, preempt the youngest sequence, or end it if it is the only one."""
        if self.cache.idle_branches:
            for _ in range(1 + self.cache.idle_branches // 2):
                self.cache.evict()
            return
        sequence = self.running[-1]
        if len(self.running) == 1:
            self._end(sequence, Outcome.CACHE_TOO_SMALL)
            return
        self.running.remove(sequence)
        self._release(sequence)
        self.stats.preemptions += 1
        self._full_at = self.stats.ended
        self.waiting.appendleft(sequence)

    def _rebuild(self) -> None:
        """Rebuild the cache and restart every running sequence from its tokens. Raises ContextBroken the second time in
        a row.
        """
        if self._just_rebuilt:
            raise ContextBroken("the context broke again right after it was rebuilt")
        self._just_rebuilt = True
        self._context.rebuild()
        self.stats.rebuilds += 1
        self.cache = PrefixCache(self._context)
        self.waiting.extendleft(reversed(self.running))
        self.running.clear()
