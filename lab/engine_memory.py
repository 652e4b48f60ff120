"""The engine's memory over many requests: notes of strategy G in one process, each with a grammar of its own.

The engine is the one that the settings describe. The process makes the requests too, some hundred at a time.
"""

import argparse
import json
import os
import platform
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from dermnote_contracts.completions import CompletionRequest
from dermnote_notegen.engine.model import Engine
from dermnote_notegen.engine.server import load_engine
from dermnote_notegen.settings import Settings
from dermnote_notegen.writing.priors import load_priors
from lab.throughput.requests import asked

MADE_AT_ONCE = 250
# Salts that no other benchmark uses.
FIRST_SALT = 1000


@dataclass(frozen=True)
class Point:
    """The process' resident memory once so many requests were answered, `seconds` after the first was asked."""

    answered: int
    rss_mib: float
    seconds: float


def requests(*, short: bool) -> Iterator[CompletionRequest]:
    """Notes of strategy G without end; `short`: of each the first sentence."""
    priors = load_priors()
    salt = FIRST_SALT
    while True:
        for one in asked(MADE_AT_ONCE, strategy="G", salt=salt, priors=priors):
            whole = one.completion
            yield whole.model_copy(update={"segments": (whole.segments or [])[:1]}) if short else whole
        salt += 1


def curve(
    engine: Engine, wanted: Iterable[CompletionRequest], *, at_a_time: int, every: int, deadline_s: float = 600
) -> Iterator[Point]:
    """Ask all of `wanted`, `at_a_time` of them at a time; a point before the first and after each `every` answers.

    Raises what a request ended with, if not with an answer.
    """
    begun = time.monotonic()
    left = iter(wanted)
    answered = 0
    yield _point(answered, begun)
    under_way = deque(engine.submit(one, stop=lambda: False) for one in islice(left, at_a_time))
    while under_way:
        under_way.popleft().result(deadline_s)
        answered += 1
        under_way.extend(engine.submit(one, stop=lambda: False) for one in islice(left, 1))
        if answered % every == 0:
            yield _point(answered, begun)


def _point(answered: int, begun: float) -> Point:
    return Point(answered, psutil.Process().memory_info().rss / 2**20, round(time.monotonic() - begun, 1))


def summary(points: Sequence[Point]) -> dict[str, float]:
    """MiB at the beginning, at the end and at most, and how many come on top with 1000 requests in the second half."""
    half = points[len(points) // 2 :]
    slope = np.polyfit([point.answered for point in half], [point.rss_mib for point in half], 1)[0]
    return {
        "first_mib": points[0].rss_mib,
        "last_mib": points[-1].rss_mib,
        "peak_mib": max(point.rss_mib for point in points),
        "mib_per_1000_in_the_second_half": float(slope) * 1000,
    }


def counted(wanted: Iterable[CompletionRequest], grammars: set[int]) -> Iterator[CompletionRequest]:
    """The same requests, while `grammars` comes to hold a number for each different grammar."""
    for one in wanted:
        grammars.add(hash(tuple(part.grammar for part in one.segments or ())))
        yield one


def main() -> None:
    """Measure, print the curve and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--short", action="store_true", help="first sentences instead of whole notes, 4 times faster")
    parser.add_argument("--every", type=int, default=100, help="answers from one point of the curve to the next")
    parser.add_argument("--out", type=Path, default=Path("lab/results/engine_memory.json"))
    arguments = parser.parse_args()
    if arguments.requests < 2 * arguments.every:
        parser.error("a curve takes at least two times --every requests")
    settings = Settings()
    engine = load_engine(settings)
    grammars: set[int] = set()
    wanted = counted(islice(requests(short=arguments.short), arguments.requests), grammars)
    points = []
    for point in curve(engine, wanted, at_a_time=settings.engine_slots * 5 // 4, every=arguments.every):
        points.append(point)
        print(f"{point.answered:7} answered  {point.rss_mib:7.1f} MiB  {point.seconds:7.1f} s", flush=True)
    record = _record(engine, points, grammars=len(grammars))
    print(json.dumps(record["summary"], indent=1))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def _record(engine: Engine, points: Sequence[Point], *, grammars: int) -> dict[str, Any]:
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "engine": engine.info(),
        "different_grammars": grammars,
        "summary": summary(points),
        "points": [asdict(point) for point in points],
    }


if __name__ == "__main__":
    main()
