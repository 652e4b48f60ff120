"""Turns the arms' measurements into ratios, a table, and plots over the index size. Only `plot` writes a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lab.search.arms import Arm

OURS, PEER, FAISS = "dermnote", "clip-retrieval", "faiss alone"
ONNX, OPEN_CLIP = "lite, onnx", "lite, openclip"


def table(arms: Sequence[Arm]) -> str:
    """One line per arm, kind of query and number of clients."""
    lines = [
        f"{'arm':<16} {'vectors':>9} {'query':>8} {'clients':>7} {'queries/s':>9} {'p50 ms':>8} {'p99 ms':>8}  hits"
    ]
    for arm in arms:
        for kind, rows in arm.rows.items():
            for row in rows:
                hits = f"{row['fewest_hits']:.0f} of {row['hits_to_find']:.0f}" if "fewest_hits" in row else ""
                lines.append(
                    f"{arm.name:<16} {arm.vectors:9d} {kind:>8} {row['clients']:7.0f} {row['queries_per_s']:9.1f} "
                    f"{row['p50_ms']:8.2f} {row['p99_ms']:8.2f}  {hits}"
                )
    return "\n".join(lines)


def ratios(arms: Sequence[Arm]) -> dict[str, float]:
    """Ratios, with keys that name both sides.

    Our service to clip-retrieval's with the most clients; 1,000,000 vectors to 100,000; image queries of the most
    clients to those of one, and with ONNX Runtime to those with open_clip.
    """
    found: dict[str, float] = {}
    sizes = sorted({arm.vectors for arm in arms if arm.name == OURS})
    for size in sizes:
        ours, peer = _last(arms, OURS, size, "vector"), _last(arms, PEER, size, "vector")
        if ours and peer:
            clients = f"{size} vectors, {ours['clients']:.0f} clients"
            found[f"queries/s over clip-retrieval's, {clients}"] = ours["queries_per_s"] / peer["queries_per_s"]
            found[f"p99 over clip-retrieval's, {clients}"] = ours["p99_ms"] / peer["p99_ms"]
    if 100_000 in sizes and 1_000_000 in sizes:
        small, large = (_rows(arms, OURS, size, "vector") for size in (100_000, 1_000_000))
        for small_row, large_row in zip(small, large, strict=True):
            name = f"p99 with 1,000,000 vectors over that with 100,000, {small_row['clients']:.0f} clients"
            found[name] = large_row["p99_ms"] / small_row["p99_ms"]
    return found | _image_ratios({arm.name: arm for arm in arms if arm.name in (ONNX, OPEN_CLIP)})


def _image_ratios(arms: Mapping[str, Arm]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, arm in arms.items():
        first, *_, last = arm.rows["image"]
        found[f"image queries/s, {name}, {last['clients']:.0f} clients over one"] = (
            last["queries_per_s"] / first["queries_per_s"]
        )
    if len(arms) == 2:
        onnx, open_clip = (arms[name].measurements["encode_p50_ms"] for name in (ONNX, OPEN_CLIP))
        found["p50 of encoding an image, ONNX over open_clip"] = onnx / open_clip
    return found


def _rows(arms: Sequence[Arm], name: str, vectors: int, kind: str) -> list[dict[str, float]]:
    return next((arm.rows[kind] for arm in arms if (arm.name, arm.vectors) == (name, vectors)), [])


def _last(arms: Sequence[Arm], name: str, vectors: int, kind: str) -> dict[str, float] | None:
    rows = _rows(arms, name, vectors, kind)
    return rows[-1] if rows else None


def plot(arms: Sequence[Arm], path: Path) -> None:
    """Plot queries/s and p99 with the most clients, and peak memory, over the index size, without image queries."""
    if not any(arm.name in (OURS, PEER, FAISS) for arm in arms):
        return
    figure = Figure(figsize=(12, 4), layout="constrained")
    speed, tail, memory = figure.subplots(1, 3)
    kinds = {(arm.name, kind) for arm in arms if arm.name not in (ONNX, OPEN_CLIP) for kind in arm.rows}
    for name, kind in sorted(kinds):
        own = sorted((arm for arm in arms if arm.name == name and kind in arm.rows), key=lambda arm: arm.vectors)
        sizes = [arm.vectors for arm in own]
        last = [arm.rows[kind][-1] for arm in own]
        label = f"{name}, {kind}, {last[0]['clients']:.0f} at a time"
        speed.plot(sizes, [row["queries_per_s"] for row in last], marker="o", label=label)
        tail.plot(sizes, [row["p99_ms"] for row in last], marker="o", label=label)
    for name in (OURS, PEER):
        own = sorted((arm for arm in arms if arm.name == name), key=lambda arm: arm.vectors)
        peaks: list[Any] = [arm.measurements["peak_mib"] for arm in own]
        memory.plot([arm.vectors for arm in own], peaks, marker="o", label=name)
    for axes, title in ((speed, "queries per second"), (tail, "p99, ms"), (memory, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="vectors", title=title)
    speed.legend(fontsize=7)
    memory.legend(fontsize=7)
    figure.savefig(path, dpi=120)
