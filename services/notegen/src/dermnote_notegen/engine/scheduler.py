"""Continuous batching: which sequences run, what each step decodes for them, and who must wait. One thread owns it.

A step decodes one batch: for every running sequence the tokens that it needs logits behind. Sequences join and leave
at every step. Knows the model only as a `Context`, so it is tested with fixed logits.
"""

import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from dermnote_notegen.engine.context import Context, ContextBroken, PoolFull, Row
from dermnote_notegen.engine.prefix_cache import Lane, Node, NoLane, Tree
from dermnote_notegen.engine.sampling import Logits
from dermnote_notegen.engine.sequence import End, Job

# A chain of tokens up to this long is never cut; longer ones (prompts) take what a step has left, in pieces.
SHORT_TOKENS = 48


Wanted = tuple[Node, list[Node]]
"""(the deepest decoded node, what is to be decoded behind it; nothing where only its logits are missing)."""


@dataclass
class Count:
    """What a scheduler has done so far."""

    steps: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    rebuilds: int = 0
    ended: int = 0


@dataclass
class Plan:
    """A step's rows, and what they mean once decoded."""

    rows: list[Row] = field(default_factory=list)
    chains: list[tuple[Lane, list[Node]]] = field(default_factory=list)
    again: list[Lane] = field(default_factory=list)
    answers: dict[Node, int] = field(default_factory=dict)


class Scheduler:
    """Runs up to `slots` jobs at a time in batches of up to `step_tokens`.

    `kept_cells`: how much of the cache may hold what no running job stands on, for later ones; all of it by default.
    """

    def __init__(self, context: Context, *, slots: int, step_tokens: int = 256, kept_cells: int | None = None) -> None:
        self._context = context
        self._slots = slots
        self._step_tokens = step_tokens
        self._kept_cells = context.cells if kept_cells is None else kept_cells
        self._steps = itertools.count(1)
        self._broken_in_a_row = 0
        self._full_at = -1
        self.tree = Tree(context)
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.count = Count()

    def add(self, job: Job) -> None:
        """Queue a job; it starts in one of the next steps. One without a choice ends at once."""
        if (end := job.begin()) is not None:
            job.on_end(job, end)
        else:
            self.waiting.append(job)

    @property
    def busy(self) -> bool:
        """Whether a step would find anything to do."""
        return bool(self.running or self.waiting)

    def step(self) -> None:
        """Let go of who stopped, admit who fits, decode one batch, and give every answered job its next tokens."""
        self._let_go()
        self._admit()
        plan = self._planned()
        if not plan.rows:
            return
        try:
            self._context.decode(plan.rows)
        except PoolFull:
            self._undo(plan)
            self._make_room()
        except ContextBroken:
            self._start_over()
        else:
            self._broken_in_a_row = 0
            self._take_in(plan)

    def _let_go(self) -> None:
        for job in [job for job in self.running if job.stop()]:
            self._end(job, End.STOPPED)
        gone = [job for job in self.waiting if job.stop()]
        for job in gone:
            self.waiting.remove(job)
            job.on_end(job, End.STOPPED)

    def _admit(self) -> None:
        if self.running and self.count.ended == self._full_at:
            return  # who was just put back would only fill the pool again
        while self.waiting and len(self.running) < self._slots:
            job = self.waiting[0]
            reserved = sum(other.reserved for other in self.running)
            if self.running and reserved + job.need() > self._context.cells:
                return
            self.waiting.popleft()
            self._start(job)

    def _start(self, job: Job) -> None:
        root = self.tree.root if self._context.shares else Node()
        job.stem = self.tree.enter(root, job.prompt)
        anchor, _ = self.tree.missing(job.stem)
        job.node = self.tree.move(job.stem, job.path[len(job.prompt) :])
        job.reserved = job.need() - anchor.depth
        self.running.append(job)
        if not job.admitted:
            job.admitted = time.monotonic()
            job.cached = min(anchor.depth, len(job.prompt) - 1)
            self.count.prompt_tokens += len(job.prompt)
            self.count.cached_tokens += job.cached
        if (known := self.tree.logits(job.node)) is not None:
            self._go_on(job, known)

    def _planned(self) -> Plan:
        plan = Plan()
        short, long = self._wanted(next(self._steps))
        # Short chains leave room for a piece of a long one, so that no number of them keeps a prompt waiting.
        piece = min(SHORT_TOKENS, self._step_tokens // 2)
        most = self._step_tokens - (piece if long else 0)
        for anchor, chain in short:
            if len(plan.rows) + max(1, len(chain)) <= most or not plan.rows:
                self._decode(plan, anchor, chain, whole=True)
        for anchor, chain in long:
            room = self._step_tokens - len(plan.rows)
            if room >= piece or not plan.rows:
                self._decode(plan, anchor, chain[:room], whole=room >= len(chain))
        return plan

    def _wanted(self, step: int) -> tuple[list[Wanted], list[Wanted]]:
        """(short chains, long ones) that running jobs need, each node once; every step begins with another job."""
        short: list[Wanted] = []
        long: list[Wanted] = []
        first = step % max(1, len(self.running))
        for job in [*self.running[first:], *self.running[:first]]:
            anchor, chain = self.tree.missing(job.node)
            head = chain[0] if chain else job.node
            if head.planned != step:
                head.planned = step
                (long if len(chain) > SHORT_TOKENS else short).append((anchor, chain))
        return short, long

    def _decode(self, plan: Plan, anchor: Node, chain: list[Node], *, whole: bool) -> None:
        if not chain:
            self._decode_again(plan, anchor)
            return
        try:
            lane = self.tree.lane_for(anchor, chain)
        except NoLane:
            return
        for node in chain:
            plan.rows.append(Row(node.token, node.depth - 1, lane.number, whole and node is chain[-1]))
        plan.chains.append((lane, chain))
        if whole:
            plan.answers[chain[-1]] = len(plan.rows) - 1

    def _decode_again(self, plan: Plan, node: Node) -> None:
        """`node` is held but its logits are not: its token is decoded once more, in a lane of its own."""
        try:
            lane = self.tree.lane_apart(node.parent)
        except NoLane:
            return
        plan.rows.append(Row(node.token, node.depth - 1, lane.number, wanted=True))
        plan.again.append(lane)
        plan.answers[node] = len(plan.rows) - 1

    def _take_in(self, plan: Plan) -> None:
        self.count.steps += 1
        self.count.rows += len(plan.rows)
        for lane, chain in plan.chains:
            self.tree.hold(chain, lane)
        for lane in plan.again:
            self.tree.spare(lane)
        answered = [job for job in self.running if job.node in plan.answers]
        for node, index in plan.answers.items():
            if node.passes > 1 or any(job.node is node and job.shares_text for job in answered):
                self.tree.keep_logits(node, self._context.logits(index))
        for job in answered:
            self._go_on(job, self._context.logits(plan.answers[job.node]))
        self._forget_unused()

    def _forget_unused(self) -> None:
        """Keep at most `kept_cells` of what no running job stands on, the most recently used of it."""
        if self.tree.held <= self._kept_cells:
            return  # which spares the counting
        unused = self.tree.unused(job.node for job in self.running)
        before = self.tree.held
        while unused - (before - self.tree.held) > self._kept_cells and self.tree.evict():
            pass

    def _go_on(self, job: Job, logits: Logits) -> None:
        """The job's next tokens; on through all nodes whose logits are known already."""
        known: Logits | None = logits
        while known is not None:
            move = job.ask(partial(job.program.next, known))
            if isinstance(move, End):
                self._end(job, move)
                return
            job.first_token = job.first_token or time.monotonic()
            if move.ended:
                self._end(job, End.WRITTEN)
                return
            if move.from_prompt:
                self._back_to_prompt(job)
            job.path += move.tokens
            job.node = self.tree.move(job.node, move.tokens)
            known = self.tree.logits(job.node)

    def _back_to_prompt(self, job: Job) -> None:
        job.path = list(job.prompt)
        self._leave(job)
        job.node = self.tree.enter(job.stem, []) if self._context.shares else self.tree.enter(Node(), job.prompt)

    def _end(self, job: Job, end: End) -> None:
        self.running.remove(job)
        self._leave(job)
        self.count.ended += 1
        job.on_end(job, end)

    def _leave(self, job: Job) -> None:
        """Stand nowhere. A free text is of no use to others and goes at once; nothing is shared without `shares`."""
        self.tree.leave(job.node)
        if not self._context.shares:
            self.tree.cut(job.node, stem=self.tree.root)
        elif not job.shares_text:
            self.tree.cut(job.node, stem=job.stem)

    def forget(self) -> None:
        """Empty the cache of what nobody uses."""
        while self.tree.evict():
            pass

    def _undo(self, plan: Plan) -> None:
        for lane, chain in plan.chains:
            self.tree.undo(chain[0].parent, lane)
        for lane in plan.again:
            self.tree.spare(lane)

    def _make_room(self) -> None:
        """Evict what nobody uses; where all is in use the youngest job goes back to the queue, or ends if alone."""
        if self.tree.idle:
            for _ in range(1 + self.tree.idle // 2):
                self.tree.evict()
            return
        job = self.running[-1]
        if len(self.running) == 1:
            self._end(job, End.NO_ROOM)
            return
        self.running.remove(job)
        self._leave(job)
        job.preempted += 1
        self.count.preemptions += 1
        self._full_at = self.count.ended
        self.waiting.appendleft(job)

    def _start_over(self) -> None:
        """Rebuild the cache; every running job starts again from its own tokens. Twice in a row is not survived."""
        self._broken_in_a_row += 1
        if self._broken_in_a_row > 1:
            raise ContextBroken("the context broke again right after it was rebuilt")
        self._context.rebuild()
        self.count.rebuilds += 1
        self.tree = Tree(self._context)
        for job in reversed(self.running):
            self.waiting.appendleft(job)
        self.running.clear()
