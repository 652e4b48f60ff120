"""Threads follow what is fastest just now, and trying costs little."""

import random
from collections.abc import Callable

import pytest

from dermnote_notegen.engine.pace import PROBE_SHARE, Pace

Cost = Callable[[int], float]


def idle(threads: int) -> float:
    """Seconds a token on idle cores: two threads are nearly twice as fast as one."""
    return 0.001 * (0.1 + 0.9 / threads)


def shared(threads: int) -> float:
    """Beside a busy process: threads that wait for each other are six times slower than one."""
    return 0.001 if threads == 1 else 0.006


def run(pace: Pace, cost: Cost, *, steps: int, tokens: int = 64) -> list[int]:
    """The threads of each step."""
    chosen = []
    for _ in range(steps):
        threads = pace.choose(tokens)
        pace.observe(tokens, threads=threads, seconds=tokens * cost(threads))
        chosen.append(threads)
    return chosen


def share(chosen: list[int], threads: int) -> float:
    return chosen.count(threads) / len(chosen)


def test_on_idle_cores_all_threads_work() -> None:
    assert share(run(Pace(2), idle, steps=500), 2) > 0.9


def test_beside_a_busy_process_one_thread_works_alone() -> None:
    assert share(run(Pace(2), shared, steps=500), 1) > 0.9


@pytest.mark.parametrize("threads", [2, 16])
def test_it_changes_over_when_the_machine_does_and_back(threads: int) -> None:
    pace = Pace(threads)
    run(pace, idle, steps=100)

    assert run(pace, shared, steps=20)[-1] == 1
    run(pace, shared, steps=200)
    assert run(pace, idle, steps=1000)[-1] == threads


def test_trying_what_is_slow_takes_a_small_share_of_the_time() -> None:
    pace = Pace(2)
    chosen = run(pace, shared, steps=2000)

    tried_s = chosen.count(2) * shared(2)
    assert tried_s < 2 * PROBE_SHARE * chosen.count(1) * shared(1)


def test_a_batch_of_another_size_is_not_taken_for_a_slower_machine() -> None:
    pace = Pace(2)
    spent_s = {1: 0.0, 2: 0.0}
    for _ in range(200):
        for tokens, factor in ((1, 8), (100, 1)):
            threads = pace.choose(tokens)
            seconds = tokens * factor * idle(threads)
            pace.observe(tokens, threads=threads, seconds=seconds)
            spent_s[threads] += seconds

    assert spent_s[1] < 2 * PROBE_SHARE * spent_s[2]


def test_noise_does_not_make_it_change_over_again_and_again() -> None:
    """Two threads of one core with two halves: 1.25 times as fast as one, each batch up to 35 % faster or slower."""
    draw, pace = random.Random(3), Pace(2)
    spent_s = {1: 0.0, 2: 0.0}
    for _ in range(3000):
        threads = pace.choose(64)
        seconds = 64 * 0.001 / (1.25 if threads == 2 else 1) * draw.uniform(0.65, 1.35)
        pace.observe(64, threads=threads, seconds=seconds)
        spent_s[threads] += seconds

    assert spent_s[1] < 2 * PROBE_SHARE * spent_s[2]


def test_one_thread_is_one_thread() -> None:
    assert set(run(Pace(1), idle, steps=50)) == {1}
