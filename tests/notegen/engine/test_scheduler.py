"""The scheduler and its tree of prefixes over a pretended cache: what is written never depends on who else is there."""

import random
from collections.abc import Callable, Sequence

import pytest

np = pytest.importorskip("numpy")

from dermnote_notegen.engine.context import ContextBroken  # noqa: E402
from dermnote_notegen.engine.decoding import Move, Written  # noqa: E402
from dermnote_notegen.engine.deterministic import Alone  # noqa: E402
from dermnote_notegen.engine.fake_context import PretendContext  # noqa: E402
from dermnote_notegen.engine.model import GrammarRefused  # noqa: E402
from dermnote_notegen.engine.prefix_cache import Tree  # noqa: E402
from dermnote_notegen.engine.sampling import Logits, Sampler, Sampling  # noqa: E402
from dermnote_notegen.engine.scheduler import Scheduler  # noqa: E402
from dermnote_notegen.engine.sequence import End, Job  # noqa: E402

VOCABULARY = 7
PROMPTS = ([1, 2, 3, 4, 5, 6] * 20, [1, 2, 3, 4, 5, 6] * 20 + [3, 3], [1, 2, 3], [6, 5, 4, 3])


class Drawn:
    """A program that samples `count` times and is given `forced` tokens behind each: a skeleton with choices.

    What its move number `anew` gives follows the prompt again.
    """

    def __init__(
        self, seed: int, *, count: int, forced: Sequence[int] = (), first: Sequence[int] = (), anew: int = 0
    ) -> None:
        self._anew = anew
        self.written = Written()
        self._sampler = Sampler(Sampling(), seed=seed)
        self._count = count
        self._forced = forced
        self._first = first

    def begin(self) -> Move:
        self.written.tokens += self._first
        return Move(list(self._first))

    def next(self, logits: Logits) -> Move:
        tokens = [self._sampler.pick(logits), *self._forced]
        self.written.tokens += tokens
        self.written.sampled += 1
        from_prompt = self.written.sampled == self._anew
        return Move(tokens, ended=self.written.sampled == self._count, from_prompt=from_prompt)


class Ask:
    """A request as a value: who asks the same gets the same text, whatever runs beside it."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.seed = seed
        self.prompt = draw.choice(PROMPTS)
        self.count = draw.randint(1, 9)
        self.forced = [2] * draw.randint(0, 3)
        self.first = [4] * draw.randint(0, 2)
        self.shares_text = draw.random() < 0.5
        self.anew = draw.choice([0, 0, 2, 4])

    def program(self) -> Drawn:
        return Drawn(self.seed, count=self.count, forced=self.forced, first=self.first, anew=self.anew)

    def job(self, done: Callable[[int, End, list[int]], None], *, stop: Callable[[], bool] = lambda: False) -> Job:
        program = self.program()
        most = len(self.first) + self.count * (1 + len(self.forced))
        return Job(
            program,
            self.prompt,
            most,
            stop,
            on_end=lambda _job, end: done(self.seed, end, program.written.tokens),
            shares_text=self.shares_text,
        )

    def expected(self, context: PretendContext) -> list[int]:
        """The text, written without scheduler or cache."""
        program = self.program()
        path = [*self.prompt, *program.begin().tokens]
        move = program.next(context.logits_after(path))
        while not move.ended:
            path = [*(self.prompt if move.from_prompt else path), *move.tokens]
            move = program.next(context.logits_after(path))
        return program.written.tokens


def context(**settings: object) -> PretendContext:
    return PretendContext(**{"cells": 4000, "lanes": 40, "vocabulary": VOCABULARY} | settings)  # type: ignore[arg-type]


def finish(scheduler: Scheduler, *, most_steps: int = 100_000) -> None:
    for _ in range(most_steps):
        if not scheduler.busy:
            return
        scheduler.step()
    raise AssertionError("it never ends")


def empty(scheduler: Scheduler, pool: PretendContext) -> bool:
    """Nothing is held once what is kept for later was given back."""
    scheduler.forget()
    return (pool.used, scheduler.tree.held, scheduler.tree.lanes_used, scheduler.tree.idle) == (0, 0, 0, 0)


@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("order", range(6))
def test_64_requests_write_what_each_writes_alone(slots: int, shares: bool, order: int) -> None:
    pool = context(shares=shares)
    scheduler = Scheduler(pool, slots=slots, step_tokens=64)
    asks = [Ask(seed) for seed in range(64)]
    random.Random(order).shuffle(asks)
    texts: dict[int, list[int]] = {}
    for ask in asks:
        scheduler.add(ask.job(lambda seed, _end, text: texts.update({seed: text})))

    finish(scheduler)

    assert texts == {ask.seed: ask.expected(pool) for ask in asks}
    assert empty(scheduler, pool)


@pytest.mark.parametrize("order", range(20))
def test_random_arrivals_cancels_a_small_pool_and_broken_contexts_change_no_text(order: int) -> None:
    draw = random.Random(order)
    pool = context(cells=draw.randint(200, 600), lanes=draw.randint(9, 20), broken_at=draw.sample(range(1, 300), 5))
    scheduler = Scheduler(pool, slots=8, step_tokens=draw.choice([16, 64, 256]))
    ends: dict[int, tuple[End, list[int]]] = {}
    stopped: set[int] = set()
    asks = [Ask(seed) for seed in range(64)]
    draw.shuffle(asks)
    left = list(asks)
    while left or scheduler.busy:
        for _ in range(draw.randint(0, 3)):
            if left:
                ask = left.pop()
                scheduler.add(
                    ask.job(
                        lambda seed, end, text: ends.update({seed: (end, text)}),
                        stop=lambda seed=ask.seed: seed in stopped,  # type: ignore[misc]
                    )
                )
        if draw.random() < 0.1:
            stopped.add(draw.randrange(64))
        scheduler.step()

    assert set(ends) == set(range(64))
    for ask in asks:
        end, text = ends[ask.seed]
        assert end is End.WRITTEN or (end is End.STOPPED and ask.seed in stopped), (ask.seed, end)
        if end is End.WRITTEN:
            assert text == ask.expected(pool)
    assert pool.most_used <= pool.cells
    assert empty(scheduler, pool)


def test_a_shared_prefix_is_decoded_once_and_kept_for_the_next() -> None:
    pool = context()
    scheduler = Scheduler(pool, slots=8)
    jobs = []
    for seed in range(8):
        job = Job(Drawn(seed, count=1), PROMPTS[0], 1, lambda: False, on_end=lambda _job, _end: None)
        jobs.append(job)
        scheduler.add(job)

    finish(scheduler)

    assert pool.decoded_rows == len(PROMPTS[0])
    later = Job(Drawn(9, count=1), PROMPTS[1], 1, lambda: False, on_end=lambda _job, _end: None)
    scheduler.add(later)
    finish(scheduler)
    assert pool.decoded_rows == len(PROMPTS[1])
    assert later.cached == len(PROMPTS[0])


def test_a_beginning_that_another_wrote_too_is_not_decoded_again() -> None:
    pool = context()
    scheduler = Scheduler(pool, slots=4)

    def same() -> Job:
        return Job(Drawn(5, count=6, forced=[1, 1]), [1], 18, lambda: False, lambda *_: None, shares_text=True)

    scheduler.add(same())
    finish(scheduler)
    first = pool.decoded_rows
    scheduler.add(same())

    finish(scheduler)

    assert pool.decoded_rows == first


def test_tokens_behind_the_last_choice_are_not_decoded() -> None:
    pool = context()
    scheduler = Scheduler(pool, slots=1)
    scheduler.add(Job(Drawn(1, count=2, forced=[3] * 10), [1, 2], 22, lambda: False, lambda *_: None))

    finish(scheduler)

    assert pool.decoded_rows == len([1, 2]) + 1 + 10


def test_a_long_prompt_does_not_hold_up_who_is_running() -> None:
    pool = context()
    scheduler = Scheduler(pool, slots=4, step_tokens=60)
    running = Drawn(1, count=40)
    scheduler.add(Job(running, [1], 40, lambda: False, lambda *_: None))
    scheduler.step()
    scheduler.add(Job(Drawn(2, count=1), [2] * 500, 1, lambda: False, lambda *_: None))

    before = running.written.sampled
    for _ in range(5):
        scheduler.step()

    assert running.written.sampled == before + 5
    assert scheduler.count.rows <= 60 * scheduler.count.steps


def test_many_short_chains_do_not_keep_a_long_prompt_waiting() -> None:
    pool = context(lanes=80, cells=40_000)
    scheduler = Scheduler(pool, slots=61, step_tokens=128)
    for seed in range(60):
        chatty = Drawn(seed, count=40, forced=[seed % VOCABULARY] * 8)
        scheduler.add(Job(chatty, [seed % VOCABULARY, seed], 360, lambda: False, lambda *_: None))
    scheduler.step()
    long = Job(Drawn(99, count=1), [2] * 400, 1, lambda: False, lambda *_: None)
    scheduler.add(long)

    for _ in range(100):
        scheduler.step()

    assert long.first_token
    assert scheduler.busy


def test_what_is_kept_for_later_is_counted_apart_from_what_is_in_use() -> None:
    pool = context()
    scheduler = Scheduler(pool, slots=4, kept_cells=120)
    diagnoses = [[token] * 90 for token in range(1, 5)]

    def run(prompt: list[int], *, count: int) -> Job:
        job = Job(Drawn(prompt[0], count=count), prompt, count, lambda: False, lambda *_: None)
        scheduler.add(job)
        return job

    run(diagnoses[0], count=1)
    finish(scheduler)
    for prompt in diagnoses[1:]:
        run(prompt, count=30)
    for _ in range(5):
        scheduler.step()
    assert scheduler.tree.held > 120

    assert scheduler.tree.unused(job.node for job in scheduler.running) == 90
    assert run(diagnoses[0], count=1).cached == 0  # it waits
    finish(scheduler)
    assert scheduler.count.cached_tokens == 89
    assert scheduler.tree.held <= 120


def test_when_the_pool_is_full_the_youngest_waits_and_all_end() -> None:
    pool = context(cells=90)
    scheduler = Scheduler(pool, slots=6)
    ends: list[End] = []
    for seed in range(6):
        job = Job(Drawn(seed, count=25), [seed + 1], 25, lambda: False, lambda _job, end: ends.append(end))
        scheduler.add(job)

    finish(scheduler)

    assert ends == [End.WRITTEN] * 6
    assert scheduler.count.preemptions > 0
    assert empty(scheduler, pool)


def test_a_request_that_does_not_fit_even_alone_says_so() -> None:
    scheduler = Scheduler(context(cells=20), slots=2)
    ends: list[End] = []
    scheduler.add(Job(Drawn(1, count=50), [1], 50, lambda: False, lambda _job, end: ends.append(end)))

    finish(scheduler)

    assert ends == [End.NO_ROOM]


class Refusing(Drawn):
    """A program that ends by `fault` behind its second token, or at once."""

    def __init__(self, *, at_once: bool, fault: type[Exception] = GrammarRefused) -> None:
        super().__init__(1, count=9)
        self._at_once = at_once
        self._fault = fault

    def begin(self) -> Move:
        if self._at_once:
            raise self._fault
        return super().begin()

    def next(self, logits: Logits) -> Move:
        if self.written.sampled == 2:
            raise self._fault
        return super().next(logits)


class Settled(Drawn):
    """A program that leaves nothing to choose."""

    def begin(self) -> Move:
        return Move([1, 2], ended=True)

    def next(self, logits: Logits) -> Move:
        raise AssertionError(f"it has ended and was shown {logits}")


@pytest.mark.parametrize("batched", [True, False])
def test_a_job_without_a_choice_ends_at_once_and_nothing_is_decoded(batched: bool) -> None:
    pool = context(lanes=9 if batched else 1)
    queue: Scheduler | Alone = Scheduler(pool, slots=2) if batched else Alone(pool)
    ends: list[End] = []

    queue.add(Job(Settled(1, count=1), [1], 2, lambda: False, lambda _job, end: ends.append(end)))

    assert ends == [End.WRITTEN]
    assert not queue.busy
    assert pool.decodes == 0


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("fault", "expected"), [(GrammarRefused, End.REFUSED), (IndexError, End.BROKEN)])
def test_a_fault_ends_its_own_job_only(batched: bool, at_once: bool, fault: type[Exception], expected: End) -> None:
    pool = context(lanes=9 if batched else 1)
    queue: Scheduler | Alone = Scheduler(pool, slots=2) if batched else Alone(pool)
    refused: list[End] = []
    texts: dict[int, list[int]] = {}
    ask = Ask(3)

    queue.add(Job(Refusing(at_once=at_once, fault=fault), [1], 9, lambda: False, lambda _job, end: refused.append(end)))
    queue.add(ask.job(lambda seed, _end, text: texts.update({seed: text})))
    while queue.busy:
        queue.step()

    assert refused == [expected]
    assert texts == {3: ask.expected(pool)}
    if isinstance(queue, Scheduler):
        assert empty(queue, pool)
    assert pool.used == 0


def test_a_context_that_breaks_at_once_again_is_not_mended() -> None:
    scheduler = Scheduler(context(broken_at=[2, 3]), slots=2)
    scheduler.add(Job(Drawn(1, count=5), [1], 5, lambda: False, lambda *_: None))

    with pytest.raises(ContextBroken):
        finish(scheduler)


def test_10_000_requests_leave_the_books_as_small_as_100_do() -> None:
    pool = context(cells=1500, lanes=32)
    scheduler = Scheduler(pool, slots=8)
    sizes = []
    for seed in range(10_000):
        scheduler.add(Ask(seed).job(lambda *_: None))
        while len(scheduler.waiting) > 8:
            scheduler.step()
        if seed % 100 == 99:
            sizes.append(sum(1 for _ in _nodes(scheduler)))
    finish(scheduler)

    assert max(sizes) <= pool.cells + 2000
    assert max(sizes[50:]) <= 2 * max(sizes[:10])
    assert empty(scheduler, pool)


def _nodes(scheduler: Scheduler) -> Sequence[object]:
    found, todo = [], [scheduler.tree.root]
    while todo:
        node = todo.pop()
        found.append(node)
        todo += node.children.values()
    return found


def test_alone_each_job_has_batches_that_only_it_shapes() -> None:
    pool = context(lanes=1)
    alone = Alone(pool, step_tokens=50)
    texts: dict[int, list[int]] = {}
    asks = [Ask(seed) for seed in range(20)]
    for ask in asks:
        alone.add(ask.job(lambda seed, _end, text: texts.update({seed: text})))

    while alone.busy:
        alone.step()

    assert texts == {ask.seed: ask.expected(pool) for ask in asks}
    assert pool.used == 0


def test_alone_who_waits_and_stops_is_let_go_before_its_turn() -> None:
    alone = Alone(context(lanes=1))
    ends: list[tuple[str, End]] = []
    for name, stops in (("in hand", False), ("stopped", True), ("next", False)):
        alone.add(
            Job(
                Drawn(1, count=3),
                [1],
                3,
                lambda stops=stops: stops,  # type: ignore[misc]
                lambda _job, end, name=name: ends.append((name, end)),
            )
        )

    alone.step()

    assert ends == [("stopped", End.STOPPED)]
    while alone.busy:
        alone.step()
    assert ends[1:] == [("in hand", End.WRITTEN), ("next", End.WRITTEN)]


def test_logits_are_kept_in_as_many_rows_as_there_are_and_the_least_recently_used_go() -> None:
    tree = Tree(context(), logits_kept=2)
    first, second, third = (tree.enter(tree.root, [token]) for token in (1, 2, 3))
    for node, value in ((first, 1.0), (second, 2.0)):
        tree.keep_logits(node, np.full(VOCABULARY, value, dtype=np.float32))
    assert tree.logits(first) is not None

    tree.keep_logits(third, np.full(VOCABULARY, 3.0, dtype=np.float32))

    assert tree.logits(second) is None
    assert [tree.logits(node).tolist() for node in (first, third)] == [[1.0] * VOCABULARY, [3.0] * VOCABULARY]

    tree.leave(first)
    assert tree.evict()
    tree.keep_logits(second, np.full(VOCABULARY, 4.0, dtype=np.float32))
    assert [tree.logits(node).tolist() for node in (second, third)] == [[4.0] * VOCABULARY, [3.0] * VOCABULARY]
