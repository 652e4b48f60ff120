"""Selects the best settings of a peer on this machine (layout of the weights, slot count) in short trials."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lab.throughput.arms import Run

FIRST_SLOTS = 4
# The server spends more time on the grammar than on decoding, so more slots do not help.
GUIDED_SLOTS = (4, 8)
MEASURES: Mapping[str, Callable[[Run], float]] = {
    "notes/s": lambda run: run.notes_per_s,
    "faithful notes/s": lambda run: run.faithful_per_s,
    "sampled tokens/s": lambda run: run.sampled_per_s,
}


@dataclass(frozen=True)
class Candidate:
    """Settings of a peer: a layout of the weights ("source": the original file) and concurrent requests."""

    layout: str
    slots: int = 1

    def __str__(self) -> str:
        return f"{self.layout} {self.slots} slots"


Trial = Callable[[Candidate], Run]


@dataclass(frozen=True)
class Selection:
    """All trials, the best candidate by each of MEASURES, and the candidates kept for the rounds, the best first."""

    tried: Mapping[Candidate, Run]
    best: Mapping[str, Candidate]
    kept: Sequence[Candidate]

    def record(self) -> dict[str, Any]:
        """The selection as plain JSON values."""
        return {
            "tried": [
                asdict(candidate)
                | {"notes": run.notes, "failed": run.failed, "faithful": run.faithful, "seconds": run.seconds}
                | {name: measure(run) for name, measure in MEASURES.items()}
                for candidate, run in self.tried.items()
            ],
            "best": {name: asdict(candidate) for name, candidate in self.best.items()},
            "kept": [asdict(candidate) for candidate in self.kept],
        }


def choose_free(attempt: Trial, *, layouts: Sequence[str], slots: Sequence[int]) -> Selection:
    """The server's best settings for notes without a grammar, by notes and by faithful notes per second.

    Tries all layouts with four slots, then the best layout by each measure with the other slot counts, and keeps the
    best candidate by each measure. Few notes are faithful, so the second measure is partly luck: if both candidates
    have the same layout, the one with the most faithful notes per second in another layout is kept too.
    """
    tried = _tried(attempt, (Candidate(layout, FIRST_SLOTS) for layout in layouts))
    measures = ("notes/s", "faithful notes/s")
    finalists = dict.fromkeys(_best(tried, measure).layout for measure in measures)
    tried |= _tried(attempt, (Candidate(layout, many) for layout in finalists for many in slots if many != FIRST_SLOTS))
    best = {measure: _best(tried, measure) for measure in measures}
    kept = list(dict.fromkeys(best.values()))
    others = {
        candidate: run for candidate, run in tried.items() if candidate.layout not in {one.layout for one in kept}
    }
    if len({candidate.layout for candidate in kept}) == 1 and others:
        kept.append(_best(others, "faithful notes/s"))
    return Selection(tried, best, kept)


def choose_guided(attempt: Trial, *, layout: str, slots: Sequence[int] = GUIDED_SLOTS) -> Selection:
    """The server's best slot count for notes with a grammar, in the given layout."""
    return _one(_tried(attempt, (Candidate(layout, many) for many in slots)), "faithful notes/s")


def choose_plain(attempt: Trial, *, layouts: Sequence[str]) -> Selection:
    """The layout in which plain Llama samples the most tokens per second."""
    return _one(_tried(attempt, (Candidate(layout) for layout in layouts)), "sampled tokens/s")


def _tried(attempt: Trial, candidates: Iterable[Candidate]) -> dict[Candidate, Run]:
    return {candidate: attempt(candidate) for candidate in candidates}


def _one(tried: Mapping[Candidate, Run], measure: str) -> Selection:
    best = _best(tried, measure)
    return Selection(tried, {measure: best}, [best])


def _best(tried: Mapping[Candidate, Run], measure: str) -> Candidate:
    """The best candidate by a measure; notes per second break ties, as when no note was faithful."""
    return max(tried, key=lambda candidate: (MEASURES[measure](tried[candidate]), tried[candidate].notes_per_s))
