"""Summarises runs as rows, ratios, a table and a plot."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lab.throughput.arms import Run

Row = Mapping[str, Any]
# Ratio -> (prefix of our arms' names, prefix of the peer's arms' names, column).
PAIRS = {
    "G: faithful notes/s over the server's P2": ("ours G", "server P2", "faithful_per_s"),
    "G: notes/s over the server's P2 notes/s, faithful or not": ("ours G", "server P2", "notes_per_s"),
    "G: faithful notes/s over the server's G": ("ours G", "server G", "faithful_per_s"),
    "G: faithful notes/s over plain Llama's P2": ("ours G", "plain Llama P2", "faithful_per_s"),
    "G: notes/s over plain Llama's P2 notes/s, faithful or not": ("ours G", "plain Llama P2", "notes_per_s"),
    "P2: sampled tokens/s over the server's": ("ours P2", "server P2", "sampled_per_s"),
    "P2: sampled tokens/s over plain Llama's": ("ours P2", "plain Llama P2", "sampled_per_s"),
}


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per arm: medians over the rounds, with the range of faithful notes per second.

    `requests`: number of requests per round. Raises ValueError if an arm's rounds have different numbers of requests.
    """
    return [_row(arm, [run for run in runs if run.arm == arm]) for arm in dict.fromkeys(run.arm for run in runs)]


def _row(arm: str, runs: Sequence[Run]) -> dict[str, Any]:
    faithful = sorted(run.faithful_per_s for run in runs)
    (requests,) = {run.notes for run in runs}
    return {
        "arm": arm,
        "rounds": len(runs),
        "requests": requests,
        "sampled_per_s": statistics.median(run.sampled_per_s for run in runs),
        "processed_per_s": statistics.median(run.processed / run.seconds for run in runs),
        "notes_per_s": statistics.median(run.notes_per_s for run in runs),
        "faithful_per_s": statistics.median(faithful),
        "faithful_range": [faithful[0], faithful[-1]],
        "faithful_pooled_per_s": sum(run.faithful for run in runs) / sum(run.seconds for run in runs),
        "faithful_share": sum(run.faithful for run in runs) / sum(run.notes for run in runs),
        "failed": sum(run.failed for run in runs),
        "peak_mib": max(run.peak_mib for run in runs),
    }


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Our best arm's rate divided by each peer's best on identical requests; no ratio for a peer with a rate of 0.

    Few notes that a peer writes without a grammar are faithful. Its rate of faithful notes is therefore the higher of
    the median over the rounds and the rate over all rounds together.
    """
    values = {name: ratio(rows, ours, peer, column) for name, (ours, peer, column) in PAIRS.items()}
    return {name: value for name, value in values.items() if value is not None}


def ratio(rows: Sequence[Row], ours: str, peer: str, column: str) -> float | None:
    """Our best rate divided by the peer's best with equally many requests; the lowest ratio if there are several."""
    columns = (column, "faithful_pooled_per_s") if column == "faithful_per_s" else (column,)
    values = []
    for requests in {row["requests"] for row in rows}:
        same_size = [row for row in rows if row["requests"] == requests]
        mine = [row[column] for row in same_size if row["arm"].startswith(ours)]
        theirs = [row[one] for row in same_size if row["arm"].startswith(peer) for one in columns]
        if mine and any(theirs):
            values.append(max(mine) / max(theirs))
    return min(values, default=None)


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [
        f"{'arm':<28} {'requests':>8} {'sampled/s':>9} {'tokens/s':>9} {'notes/s':>8} {'faithful/s':>10}"
        "  spread          share   MiB"
    ]
    for row in rows:
        low, high = row["faithful_range"]
        spread = f"[{low:.2f}, {high:.2f}]"
        lines.append(
            f"{row['arm']:<28} {row['requests']:8d} {row['sampled_per_s']:9.0f} {row['processed_per_s']:9.0f} "
            f"{row['notes_per_s']:8.2f} {row['faithful_per_s']:10.2f}  {spread:<15} {row['faithful_share']:5.0%} "
            f"{row['peak_mib']:5.0f}"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot the faithful notes per second of every arm, with their range, and all notes per second."""
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['arm']} ({row['requests']})" for row in rows][::-1]
    faithful = [row["faithful_per_s"] for row in rows][::-1]
    spread = [
        [row["faithful_per_s"] - row["faithful_range"][0] for row in rows][::-1],
        [row["faithful_range"][1] - row["faithful_per_s"] for row in rows][::-1],
    ]
    axes.barh(names, [row["notes_per_s"] for row in rows][::-1], color="0.85", label="all notes")
    axes.barh(names, faithful, xerr=spread, color="tab:blue", height=0.5, label="faithful at first try")
    axes.set_xlabel("notes per second (in brackets: requests per round)")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
