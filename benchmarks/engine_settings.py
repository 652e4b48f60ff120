"""What the engine's own settings are worth: strategy G in-process, one setting changed at a time, in turns.

Threads, tokens of a step, slots, cells kept for sharing, types of the cache, flash attention. One cold engine each.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BASE: dict[str, Any] = {
    "threads": os.cpu_count() or 1,
    "step_tokens": 256,
    "slots": 24,
    "kept_cells": 1536,
    "keys": "bf16",
    "values": "f16",
    "flash_attention": True,
    "batch": 512,
}
CHANGES: dict[str, list[Any]] = {
    "threads": [1],
    "step_tokens": [64, 128],
    "batch": [128],
    "slots": [8, 16, 32, 48],
    "kept_cells": [0, 512, 3072],
    "keys": ["f16", "q8_0"],
    "flash_attention": [False],
}


def variants() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, settings): the base first, then each change of one setting."""
    yield "base", BASE
    for setting, values in CHANGES.items():
        for value in values:
            more = {"values": "f16", "keys": "f16"} if setting == "flash_attention" else {}
            if setting == "batch":
                more = {"step_tokens": value}
            yield f"{setting} {value}", BASE | more | {setting: value}


def measure(settings: Mapping[str, Any], *, notes: int, salt: int) -> dict[str, float]:
    """Notes a second and tokens decoded a note, of a batch from a cold start. In a process of its own: see main."""
    import time  # noqa: PLC0415 - the child's own imports: llama.cpp reads its spin count when it is loaded

    from benchmarks.engine import asked  # noqa: PLC0415
    from dermnote_notegen.engine.batching import BatchEngine  # noqa: PLC0415
    from dermnote_notegen.engine.llama import Shape, Weights  # noqa: PLC0415
    from dermnote_notegen.engine.model import Origin, find_weights  # noqa: PLC0415
    from dermnote_notegen.engine.tuning import tune  # noqa: PLC0415
    from dermnote_notegen.priors import load_priors  # noqa: PLC0415
    from dermnote_notegen.settings import Settings  # noqa: PLC0415

    given = dict(settings)
    slots, kept, step = given.pop("slots"), given.pop("kept_cells"), given.pop("step_tokens")
    shape = Shape(cells=8192, lanes=256, **given)
    name, path, sha256 = find_weights("smollm2")
    tuned = tune(path, Origin(name, sha256), shape=shape, folder=Settings().cache_dir)
    batch = asked(notes, strategy="G", salt=salt, priors=load_priors())
    engine = BatchEngine(
        Weights(tuned.path),
        shape,
        origin=tuned.origin,
        slots=slots,
        context_tokens=2048,
        kept_cells=kept,
        step_tokens=step,
    )
    begun = time.perf_counter()
    for answer in [engine.submit(ask.completion, stop=lambda: False) for ask in batch]:
        answer.result()
    seconds = time.perf_counter() - begun
    decoded = engine.count.rows
    engine.close()
    return {"notes_per_s": notes / seconds, "tokens_per_note": decoded / notes, "tokens_per_s": decoded / seconds}


def main() -> None:
    """Measure each variant in turns, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--notes", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engine_settings.json"))
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for turn in range(1, arguments.rounds + 1):
        for name, settings in variants():
            code = (
                "import json; from benchmarks.engine_settings import measure; "
                f"print(json.dumps(measure({settings!r}, notes={arguments.notes}, salt={turn})))"
            )
            environment = os.environ | {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "100000")}
            done = subprocess.run(  # noqa: S603 - the command is the benchmark's own
                [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, env=environment
            )
            found.setdefault(name, []).append(json.loads(done.stdout))
    rows = {
        name: {column: statistics.median(run[column] for run in runs) for column in runs[0]}
        for name, runs in found.items()
    }
    for name, row in rows.items():
        print(
            f"{name:<24} {row['notes_per_s']:6.2f} notes/s  {row['tokens_per_note']:5.1f} tokens/note"
            f"  {row['tokens_per_s']:5.0f} tokens/s  x{row['notes_per_s'] / rows['base']['notes_per_s']:.2f}"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"base": BASE, "medians": rows, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
