"""The scheduler and its prefix cache over a fake context: texts never depend on concurrent requests."""

import random
from collections import abc
from collections.abc import Callable, Iterable
from typing import Any

import pytest

np = pytest.importorskip("numpy")

from dermnote_notegen.engine.model import (  # noqa: E402
    BatchToken,
    ContextBroken,
    GrammarError,
)
from dermnote_notegen.engine.prefix_cache import PrefixCache  # noqa: E402
from dermnote_notegen.engine.sampling import Logits, Sampler, SamplingParams  # noqa: E402
from dermnote_notegen.engine.scheduler import Scheduler  # noqa: E402
from dermnote_notegen.engine.sequence import Continuation, Outcome, Output, Sequence  # noqa: E402  # noqa: E402
from tests.notegen.engine.fake_context import FakeContext  # noqa: E402

VOCABULARY = 7
PROMPTS = ([1, 2, 3, 4, 5, 6] * 20, [1, 2, 3, 4, 5, 6] * 20 + [3, 3], [1, 2, 3], [6, 5, 4, 3])


class FakeDecoder:
    """A decoder that samples `count` times and gets `forced` tokens after each: a skeleton with choices.

    The continuation number `back_at` follows the prompt again.
    """

    def __init__(
        self, seed: int, *, count: int, forced: Iterable[int] = (), first: Iterable[int] = (), back_at: int = 0
    ) -> None:
        self._back_at = back_at
        self.output = Output()
        self._sampler = Sampler(SamplingParams(), seed=seed)
        self._count = count
        self._forced = forced
        self._first = first

    def begin(self) -> Continuation:
        self.output.tokens += self._first
        return Continuation(list(self._first))

    def next(self, logits: Logits) -> Continuation:
        tokens = [self._sampler.sample(logits), *self._forced]
        self.output.tokens += tokens
        self.output.sampled += 1
        from_prompt = self.output.sampled == self._back_at
        return Continuation(tokens, ended=self.output.sampled == self._count, from_prompt=from_prompt)


class FakeRequest:
    """A request that is a function of its seed; so is its text, whatever else runs."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.seed = seed
        self.prompt = draw.choice(PROMPTS)
        self.count = draw.randint(1, 9)
        self.forced = [2] * draw.randint(0, 3)
        self.first = [4] * draw.randint(0, 2)
        self.reusable = draw.random() < 0.5
        self.back_at = draw.choice([0, 0, 2, 4])

    def decoder(self) -> FakeDecoder:
        return FakeDecoder(self.seed, count=self.count, forced=self.forced, first=self.first, back_at=self.back_at)

    def sequence(
        self, done: Callable[[int, Outcome, list[int]], None], *, cancelled: Callable[[], bool] = lambda: False
    ) -> Sequence:
        decoder = self.decoder()
        most = len(self.first) + self.count * (1 + len(self.forced))
        return Sequence(
            decoder,
            self.prompt,
            most,
            cancelled,
            on_end=lambda _sequence, end: done(self.seed, end, decoder.output.tokens),
            reusable=self.reusable,
        )

    def expected(self, context: FakeContext) -> list[int]:
        """The text, computed without scheduler and cache."""
        decoder = self.decoder()
        path = [*self.prompt, *decoder.begin().tokens]
        continuation = decoder.next(context.logits_after(path))
        while not continuation.ended:
            path = [*(self.prompt if continuation.from_prompt else path), *continuation.tokens]
            continuation = decoder.next(context.logits_after(path))
        return decoder.output.tokens


def context(**settings: object) -> FakeContext:
    return FakeContext(**{"cells": 4000, "max_sequences": 40, "vocabulary": VOCABULARY} | settings)  # type: ignore[arg-type]


def finish(scheduler: Scheduler, *, max_steps: int = 100_000) -> None:
    for _ in range(max_steps):
        if not scheduler.busy:
            return
        scheduler.step()
    raise AssertionError("the scheduler does not finish")


def empty(scheduler: Scheduler, cache: FakeContext) -> bool:
    """Whether nothing remains once the unused branches are evicted."""
    scheduler.cache.clear()
    return (cache.used, scheduler.cache.cells_held, scheduler.cache.sequences_used, scheduler.cache.idle_branches) == (
        0,
        0,
        0,
        0,
    )


@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("order", range(6))
def test_64_concurrent_requests_generate_the_texts_that_each_generates_alone(
    slots: int, shares: bool, order: int
) -> None:
    cache = context(shares=shares)
    scheduler = Scheduler(cache, slots=slots, step_tokens=64)
    requests = [FakeRequest(seed) for seed in range(64)]
    random.Random(order).shuffle(requests)
    texts: dict[int, list[int]] = {}
    for request in requests:
        scheduler.add(request.sequence(lambda seed, _end, text: texts.update({seed: text})))

    finish(scheduler)

    assert texts == {request.seed: request.expected(cache) for request in requests}
    assert empty(scheduler, cache)


@pytest.mark.parametrize("order", range(20))
def test_arrivals_cancellations_a_small_cache_and_broken_contexts_change_no_text(order: int) -> None:
    draw = random.Random(order)
    cache = context(
        cells=draw.randint(200, 600), max_sequences=draw.randint(9, 20), broken_at=draw.sample(range(1, 300), 5)
    )
    scheduler = Scheduler(cache, slots=8, step_tokens=draw.choice([16, 64, 256]))
    ends: dict[int, tuple[Outcome, list[int]]] = {}
    stopped: set[int] = set()
    requests = [FakeRequest(seed) for seed in range(64)]
    draw.shuffle(requests)
    left = list(requests)
    while left or scheduler.busy:
        for _ in range(draw.randint(0, 3)):
            if left:
                request = left.pop()
                scheduler.add(
                    request.sequence(
                        lambda seed, end, text: ends.update({seed: (end, text)}),
                        cancelled=lambda seed=request.seed: seed in stopped,  # type: ignore[misc]
                    )
                )
        if draw.random() < 0.1:
            stopped.add(draw.randrange(64))
        scheduler.step()

    assert set(ends) == set(range(64))
    for request in requests:
        end, text = ends[request.seed]
        assert end is Outcome.COMPLETED or (end is Outcome.CANCELLED and request.seed in stopped), (request.seed, end)
        if end is Outcome.COMPLETED:
            assert text == request.expected(cache)
    assert cache.most_used <= cache.cells
    assert empty(scheduler, cache)


def test_a_shared_prefix_is_decoded_once_and_reused_later() -> None:
    cache = context()
    scheduler = Scheduler(cache, slots=8)
    for seed in range(8):
        sequence = Sequence(
            FakeDecoder(seed, count=1), PROMPTS[0], 1, lambda: False, on_end=lambda _sequence, _end: None
        )
        scheduler.add(sequence)

    finish(scheduler)

    assert cache.decoded_tokens == len(PROMPTS[0])
    later = Sequence(FakeDecoder(9, count=1), PROMPTS[1], 1, lambda: False, on_end=lambda _sequence, _end: None)
    scheduler.add(later)
    finish(scheduler)
    assert cache.decoded_tokens == len(PROMPTS[1])
    assert later.cached_tokens == len(PROMPTS[0])


def test_a_beginning_generated_before_is_not_decoded_again() -> None:
    cache = context()
    scheduler = Scheduler(cache, slots=4)

    def same() -> Sequence:
        return Sequence(FakeDecoder(5, count=6, forced=[1, 1]), [1], 18, lambda: False, lambda *_: None, reusable=True)

    scheduler.add(same())
    finish(scheduler)
    first = cache.decoded_tokens
    scheduler.add(same())

    finish(scheduler)

    assert cache.decoded_tokens == first


def test_tokens_after_the_last_choice_are_not_decoded() -> None:
    cache = context()
    scheduler = Scheduler(cache, slots=1)
    scheduler.add(Sequence(FakeDecoder(1, count=2, forced=[3] * 10), [1, 2], 22, lambda: False, lambda *_: None))

    finish(scheduler)

    assert cache.decoded_tokens == len([1, 2]) + 1 + 10


def test_a_long_prompt_does_not_block_running_sequences() -> None:
    cache = context()
    scheduler = Scheduler(cache, slots=4, step_tokens=60)
    running = FakeDecoder(1, count=40)
    scheduler.add(Sequence(running, [1], 40, lambda: False, lambda *_: None))
    scheduler.step()
    scheduler.add(Sequence(FakeDecoder(2, count=1), [2] * 500, 1, lambda: False, lambda *_: None))

    before = running.output.sampled
    for _ in range(5):
        scheduler.step()

    assert running.output.sampled == before + 5
    assert scheduler.stats.decoded_tokens <= 60 * scheduler.stats.steps


def test_many_short_chains_do_not_starve_a_long_prompt() -> None:
    cache = context(max_sequences=80, cells=40_000)
    scheduler = Scheduler(cache, slots=61, step_tokens=128)
    for seed in range(60):
        chatty = FakeDecoder(seed, count=40, forced=[seed % VOCABULARY] * 8)
        scheduler.add(Sequence(chatty, [seed % VOCABULARY, seed], 360, lambda: False, lambda *_: None))
    scheduler.step()
    long = Sequence(FakeDecoder(99, count=1), [2] * 400, 1, lambda: False, lambda *_: None)
    scheduler.add(long)

    for _ in range(100):
        scheduler.step()

    assert long.first_token
    assert scheduler.busy


def test_unused_cells_are_counted_apart_from_used_ones() -> None:
    cache = context()
    scheduler = Scheduler(cache, slots=4, unused_cells=120)
    diagnoses = [[token] * 90 for token in range(1, 5)]

    def run(prompt: list[int], *, count: int) -> Sequence:
        sequence = Sequence(FakeDecoder(prompt[0], count=count), prompt, count, lambda: False, lambda *_: None)
        scheduler.add(sequence)
        return sequence

    run(diagnoses[0], count=1)
    finish(scheduler)
    for prompt in diagnoses[1:]:
        run(prompt, count=30)
    for _ in range(5):
        scheduler.step()
    assert scheduler.cache.cells_held > 120

    assert scheduler.cache.unused_cells(sequence.node for sequence in scheduler.running) == 90
    assert run(diagnoses[0], count=1).cached_tokens == 0  # it is still waiting
    finish(scheduler)
    assert scheduler.stats.cached_tokens == 89
    assert scheduler.cache.cells_held <= 120


def test_a_full_cache_preempts_the_youngest_and_all_complete() -> None:
    cache = context(cells=90)
    scheduler = Scheduler(cache, slots=6)
    ends: list[Outcome] = []
    for seed in range(6):
        sequence = Sequence(
            FakeDecoder(seed, count=25), [seed + 1], 25, lambda: False, lambda _sequence, end: ends.append(end)
        )
        scheduler.add(sequence)

    finish(scheduler)

    assert ends == [Outcome.COMPLETED] * 6
    assert scheduler.stats.preemptions > 0
    assert empty(scheduler, cache)


def test_a_request_larger_than_the_cache_ends_with_an_error() -> None:
    scheduler = Scheduler(context(cells=20), slots=2)
    ends: list[Outcome] = []
    scheduler.add(Sequence(FakeDecoder(1, count=50), [1], 50, lambda: False, lambda _sequence, end: ends.append(end)))

    finish(scheduler)

    assert ends == [Outcome.CACHE_TOO_SMALL]


class FailingDecoder(FakeDecoder):
    """A decoder that raises `fault` after its second token, or at once."""

    def __init__(self, *, at_once: bool, fault: type[Exception] = GrammarError) -> None:
        super().__init__(1, count=9)
        self._at_once = at_once
        self._fault = fault

    def begin(self) -> Continuation:
        if self._at_once:
            raise self._fault
        return super().begin()

    def next(self, logits: Logits) -> Continuation:
        if self.output.sampled == 2:
            raise self._fault
        return super().next(logits)


class ForcedDecoder(FakeDecoder):
    """A decoder without any choice."""

    def begin(self) -> Continuation:
        return Continuation([1, 2], ended=True)

    def next(self, logits: Logits) -> Continuation:
        raise AssertionError(f"called after its end with {logits}")


@pytest.mark.parametrize("isolated", [False, True])
def test_a_sequence_without_a_choice_ends_at_once_and_nothing_is_decoded(isolated: bool) -> None:
    cache = context(max_sequences=9)
    scheduler = Scheduler(cache, slots=2, isolated=isolated)
    ends: list[Outcome] = []

    scheduler.add(Sequence(ForcedDecoder(1, count=1), [1], 2, lambda: False, lambda _sequence, end: ends.append(end)))

    assert ends == [Outcome.COMPLETED]
    assert not scheduler.busy
    assert cache.decodes == 0


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("fault", "expected"), [(GrammarError, Outcome.GRAMMAR_ERROR), (IndexError, Outcome.FAILED)])
def test_an_error_ends_only_its_own_sequence(
    isolated: bool, at_once: bool, fault: type[Exception], expected: Outcome
) -> None:
    cache = context(max_sequences=9)
    scheduler = Scheduler(cache, slots=2, isolated=isolated)
    refused: list[Outcome] = []
    texts: dict[int, list[int]] = {}
    request = FakeRequest(3)

    scheduler.add(
        Sequence(
            FailingDecoder(at_once=at_once, fault=fault),
            [1],
            9,
            lambda: False,
            lambda _sequence, end: refused.append(end),
        )
    )
    scheduler.add(request.sequence(lambda seed, _end, text: texts.update({seed: text})))
    while scheduler.busy:
        scheduler.step()

    assert refused == [expected]
    assert texts == {3: request.expected(cache)}
    assert cache.used == 0 or not isolated
    assert empty(scheduler, cache)


def test_a_context_that_breaks_twice_in_a_row_is_not_rebuilt() -> None:
    scheduler = Scheduler(context(broken_at=[2, 3]), slots=2)
    scheduler.add(Sequence(FakeDecoder(1, count=5), [1], 5, lambda: False, lambda *_: None))

    with pytest.raises(ContextBroken):
        finish(scheduler)


def test_the_tree_does_not_grow_over_10_000_requests() -> None:
    cache = context(cells=1500, max_sequences=32)
    scheduler = Scheduler(cache, slots=8)
    sizes = []
    for seed in range(10_000):
        scheduler.add(FakeRequest(seed).sequence(lambda *_: None))
        while len(scheduler.waiting) > 8:
            scheduler.step()
        if seed % 100 == 99:
            sizes.append(sum(1 for _ in _nodes(scheduler)))
    finish(scheduler)

    assert max(sizes) <= cache.cells + 2000
    assert max(sizes[50:]) <= 2 * max(sizes[:10])
    assert empty(scheduler, cache)


def _nodes(scheduler: Scheduler) -> list[object]:
    result, todo = [], [scheduler.cache.root]
    while todo:
        node = todo.pop()
        result.append(node)
        todo += node.children.values()
    return result


class RecordingContext(FakeContext):
    """Records every batch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.batches: list[list[BatchToken]] = []

    def decode(self, batch: abc.Sequence[BatchToken]) -> None:
        super().decode(batch)
        self.batches.append(list(batch))


def isolated_batches(seeds: Iterable[int]) -> dict[int, list[list[BatchToken]]]:
    """The batches that decode each request, in the order of `seeds`; checks the texts too."""
    cache = RecordingContext(cells=300, max_sequences=2, vocabulary=VOCABULARY)
    scheduler = Scheduler(cache, slots=8, step_tokens=32, isolated=True)
    result: dict[int, list[list[BatchToken]]] = {}

    def record(seed: int, outcome: Outcome, text: list[int]) -> None:
        assert outcome is Outcome.COMPLETED
        assert text == FakeRequest(seed).expected(cache)
        assert cache.used == 0
        result[seed], cache.batches = cache.batches, []

    for seed in seeds:
        scheduler.add(FakeRequest(seed).sequence(record))
    finish(scheduler)
    return result


def test_batches_of_an_isolated_request_depend_on_that_request_alone() -> None:
    batches = isolated_batches(range(30))

    assert isolated_batches(reversed(range(30))) == batches
    for seed in range(30):
        assert isolated_batches([seed]) == {seed: batches[seed]}


def test_cancelled_isolated_requests_leave_the_queue_before_their_turn() -> None:
    scheduler = Scheduler(context(max_sequences=2), slots=1, isolated=True)
    ends: list[tuple[str, Outcome]] = []
    for name, cancelled in (("running", False), ("cancelled", True), ("next", False)):
        scheduler.add(
            Sequence(
                FakeDecoder(1, count=3),
                [1],
                3,
                lambda cancelled=cancelled: cancelled,  # type: ignore[misc]
                lambda _sequence, end, name=name: ends.append((name, end)),
            )
        )

    scheduler.step()

    assert ends == [("cancelled", Outcome.CANCELLED)]
    finish(scheduler)
    assert ends[1:] == [("running", Outcome.COMPLETED), ("next", Outcome.COMPLETED)]


def test_the_least_recently_used_logits_are_evicted() -> None:
    cache = PrefixCache(context(), cached_logits=2)
    first, second, third = (cache.acquire(cache.root, [token]) for token in (1, 2, 3))
    for node, value in ((first, 1.0), (second, 2.0)):
        cache.store_logits(node, np.full(VOCABULARY, value, dtype=np.float32))
    assert cache.logits(first) is not None

    cache.store_logits(third, np.full(VOCABULARY, 3.0, dtype=np.float32))

    assert cache.logits(second) is None
    assert [cache.logits(node).tolist() for node in (first, third)] == [[1.0] * VOCABULARY, [3.0] * VOCABULARY]

    cache.release(first)
    assert cache.evict()
    cache.store_logits(second, np.full(VOCABULARY, 4.0, dtype=np.float32))
    assert [cache.logits(node).tolist() for node in (second, third)] == [[4.0] * VOCABULARY, [3.0] * VOCABULARY]
