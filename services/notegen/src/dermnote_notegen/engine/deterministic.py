"""Deterministic requests: one after the other in a cache of their own, in batches whose shapes only the request sets.

llama.cpp's logits depend a little on what else is in a batch. Here nothing else is, so a seed gives the same text
whatever the load.
"""

import logging
import time
from collections import deque

from dermnote_notegen.engine.context import Context, ContextBroken, PoolFull, Row
from dermnote_notegen.engine.sequence import End, Job

log = logging.getLogger(__name__)
LANE = 0
# All others wait for a step of this one thread, so it is a few tokens and never a whole prompt.
STEP_TOKENS = 32


class Alone:
    """Takes one job at a time through a context that it owns; a step decodes one batch of it."""

    def __init__(self, context: Context, *, step_tokens: int = STEP_TOKENS) -> None:
        self._context = context
        self._step_tokens = step_tokens
        self._done = 0
        self.waiting: deque[Job] = deque()
        self.running: Job | None = None

    def add(self, job: Job) -> None:
        """Queue a job. One without a choice ends at once."""
        if (end := job.begin()) is not None:
            job.on_end(job, end)
        else:
            self.waiting.append(job)

    @property
    def busy(self) -> bool:
        """Whether a step would find anything to do."""
        return self.running is not None or bool(self.waiting)

    def step(self) -> None:
        """Let go of who stopped, then decode the next batch of the job in hand."""
        for gone in [job for job in self.waiting if job.stop()]:
            self.waiting.remove(gone)
            gone.on_end(gone, End.STOPPED)
        job = self._job()
        if job is None:
            return
        tokens = job.path[self._done : self._done + self._step_tokens]
        rows = [
            Row(token, self._done + offset, LANE, self._done + offset == len(job.path) - 1)
            for offset, token in enumerate(tokens)
        ]
        try:
            self._context.decode(rows)
        except PoolFull:
            self._end(job, End.NO_ROOM)
            return
        except ContextBroken as broken:
            log.error("a deterministic request's context broke: %s", broken)  # noqa: TRY400  the message says it all
            self._rebuild()
            self._end(job, End.BROKEN)
            return
        self._done += len(rows)
        if self._done == len(job.path):
            self._go_on(job, len(rows) - 1)

    def _job(self) -> Job | None:
        if self.running is None and self.waiting:
            self.running = self.waiting.popleft()
            self.running.admitted = time.monotonic()
            self._done = 0
        if self.running is not None and self.running.stop():
            self._end(self.running, End.STOPPED)
        return self.running

    def _go_on(self, job: Job, index: int) -> None:
        move = job.ask(lambda: job.program.next(self._context.logits(index)))
        if isinstance(move, End):
            self._end(job, move)
            return
        job.first_token = job.first_token or time.monotonic()
        if move.ended:
            self._end(job, End.WRITTEN)
            return
        if move.from_prompt:
            job.path = list(job.prompt)
            self._done = len(job.prompt) - 1 if self._context.shares else 0
            self._context.drop(LANE, start=self._done)
        job.path += move.tokens

    def _rebuild(self) -> None:
        """Where there is no memory for it now, it is tried again for the next job: the batches go on without it."""
        try:
            self._context.rebuild()
        except MemoryError as error:
            log.error("it can't be made anew: %s", error)  # noqa: TRY400  the message says it all

    def _end(self, job: Job, end: End) -> None:
        self.running = None
        self._context.drop(LANE, start=0)
        job.on_end(job, end)
