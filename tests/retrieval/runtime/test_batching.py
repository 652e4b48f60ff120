"""Batches: which inputs share one, in what order, and the effect of an invalid input on the others."""

import threading
from collections.abc import Sequence

import pytest

from dermnote_retrieval.runtime.batching import Batcher

WAIT_S = 10


class Gate:
    """Work that records its batches and blocks in the first one until it is opened."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, values: Sequence[int]) -> list[int]:
        self.batches.append(list(values))
        self.entered.set()
        assert self.opened.wait(WAIT_S)
        if any(value < 0 for value in values):
            raise ValueError("negative")
        return [value * 10 for value in values]


def blocked(*, max_size: int) -> tuple[Gate, "Batcher[int, int]"]:
    """A batcher whose first batch, [0], blocks in its gate."""
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate, max_size=max_size)
    batcher.submit([0])
    assert gate.entered.wait(WAIT_S)
    return gate, batcher


def test_inputs_that_arrive_during_a_batch_share_the_next() -> None:
    gate, batcher = blocked(max_size=8)
    later = [batcher.submit([value]) for value in (2, 3, 4)]
    assert batcher.waiting() == 3

    gate.opened.set()

    assert [one.result(WAIT_S) for (one,) in later] == [20, 30, 40]
    assert gate.batches == [[0], [2, 3, 4]]
    batcher.close()


def test_a_batch_takes_one_input_per_caller_in_turn() -> None:
    gate, batcher = blocked(max_size=4)
    many = batcher.submit(list(range(10, 20)))
    one = batcher.submit([5])

    gate.opened.set()

    assert [answer.result(WAIT_S) for answer in many] == [value * 10 for value in range(10, 20)]
    assert one[0].result(WAIT_S) == 50
    assert gate.batches[1] == [10, 5, 11, 12]
    assert [len(batch) for batch in gate.batches] == [1, 4, 4, 3]
    batcher.close()


def test_an_invalid_input_fails_alone() -> None:
    gate, batcher = blocked(max_size=8)
    right, wrong, also_right = (batcher.submit([value]) for value in (1, -1, 2))

    gate.opened.set()

    assert (right[0].result(WAIT_S), also_right[0].result(WAIT_S)) == (10, 20)
    with pytest.raises(ValueError, match="negative"):
        wrong[0].result(WAIT_S)
    batcher.close()


def test_closing_answers_waiting_inputs_and_later_calls_run_in_the_caller() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_size=1)
    waiting = batcher.submit([1, 2, 3])
    gate.opened.set()

    batcher.close()

    assert [one.result(0) for one in waiting] == [10, 20, 30]
    assert batcher([4, 5]) == [40, 50]
    assert batcher([]) == []


def test_several_threads_share_the_batches_and_each_caller_gets_its_own_outputs() -> None:
    batcher = Batcher(lambda values: [value * 10 for value in values], max_size=3, threads=3)
    results: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        results[number] = batcher([number * 100 + place for place in range(7)])

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WAIT_S)

    assert results == {number: [(number * 100 + place) * 10 for place in range(7)] for number in range(16)}
    batcher.close()
