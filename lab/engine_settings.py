"""What the engine's own settings are worth: strategy G in-process, one setting changed at a time, in turns.

Threads, tokens of a step, of a batch, of a micro-batch, slots, cells kept for sharing, types of the cache, flash
attention. One cold engine each, all with the layout of the weights that the engine runs with here, chosen once before.
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

CELLS, LANES = 8192, 256
CONTEXT_TOKENS = 2048
CHANGES: dict[str, list[Any]] = {
    "step_tokens": [64, 128],
    "batch": [128],
    "micro_batch": [64, 128, 256],
    "slots": [8, 16, 32, 48],
    "kept_cells": [0, 512, 3072],
    "keys": ["f16", "bf16", "q8_0"],
    "flash_attention": [False],
}
# What a change takes along: a batch no smaller than a step; without flash attention the cache is 16 bit.
WITH: dict[str, dict[str, Any]] = {
    "batch": {"step_tokens": 128},
    "flash_attention": {"keys": "f16", "values": "f16"},
}


def base(*, threads: int, keys: str) -> dict[str, Any]:
    """What the engine runs with. `keys`: the cache type that was chosen with the layout."""
    return {
        "threads": threads,
        "step_tokens": 256,
        "slots": 24,
        "kept_cells": 1536,
        "keys": keys,
        "values": "f16",
        "flash_attention": True,
        "batch": 512,
        "micro_batch": None,
    }


def variants(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, settings): the base first, then each change of one setting, threads by halves."""
    yield "base", settings
    threads = settings["threads"]
    halves = [threads >> by for by in range(1, threads.bit_length())]
    for setting, values in ({"threads": halves} | CHANGES).items():
        for value in values:
            if value != settings[setting]:
                yield f"{setting} {value}", settings | WITH.get(setting, {}) | {setting: value}


def tuned() -> dict[str, Any]:
    """The weights' file, the cache type and the threads that the engine runs with here. In a process of its own."""
    from dermnote_notegen.engine.llama import Shape  # noqa: PLC0415 - the child's own imports
    from dermnote_notegen.engine.model import Origin, find_weights  # noqa: PLC0415
    from dermnote_notegen.engine.tune.layouts import tune  # noqa: PLC0415
    from dermnote_notegen.settings import Settings  # noqa: PLC0415

    settings = Settings()
    name, path, sha256 = find_weights("smollm2")
    shape = Shape(cells=CELLS, lanes=LANES, threads=settings.engine_threads)
    made = tune(path, Origin(name, sha256), shape=shape, folder=settings.cache_dir)
    return {"path": str(made.path), "keys": made.keys, "threads": settings.engine_threads}


def measure(settings: Mapping[str, Any], *, path: str, notes: int, salt: int) -> dict[str, float]:
    """Notes a second and tokens decoded a note, of a batch from a cold start. In a process of its own: see `child`."""
    import time  # noqa: PLC0415 - the child's own imports: llama.cpp reads its spin count when it is loaded

    from dermnote_notegen.engine.engine import BatchEngine  # noqa: PLC0415
    from dermnote_notegen.engine.llama import Shape, Weights  # noqa: PLC0415
    from dermnote_notegen.engine.model import Origin  # noqa: PLC0415
    from dermnote_notegen.writing.priors import load_priors  # noqa: PLC0415
    from lab.throughput.requests import asked  # noqa: PLC0415

    given = dict(settings)
    slots, kept, step = given.pop("slots"), given.pop("kept_cells"), given.pop("step_tokens")
    batch = asked(notes, strategy="G", salt=salt, priors=load_priors())
    engine = BatchEngine(
        Weights(Path(path)),
        Shape(cells=CELLS, lanes=LANES, **given),
        origin=Origin(Path(path).stem, None),
        slots=slots,
        context_tokens=CONTEXT_TOKENS,
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


def child(call: str, **arguments: Any) -> dict[str, Any]:
    """What a function of this module returns in a new process. Raises subprocess.CalledProcessError when it fails."""
    code = (
        f"import json, sys; from lab.engine_settings import {call}; print(json.dumps({call}(**json.load(sys.stdin))))"
    )
    done = subprocess.run(  # noqa: S603 - the command is the benchmark's own
        [sys.executable, "-c", code],
        input=json.dumps(arguments).encode(),
        stdout=subprocess.PIPE,
        check=True,
        env=os.environ | {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "100000")},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure each variant in turns, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--notes", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("lab/results/engine_settings.json"))
    arguments = parser.parse_args()
    chosen = child("tuned")
    settings = base(threads=chosen["threads"], keys=chosen["keys"])
    found: dict[str, list[dict[str, float]]] = {}
    for turn in range(1, arguments.rounds + 1):
        for name, changed in variants(settings):
            run = child("measure", settings=changed, path=chosen["path"], notes=arguments.notes, salt=turn)
            found.setdefault(name, []).append(run)
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
    record = {"weights": Path(chosen["path"]).name, "base": settings, "medians": rows, "runs": found}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
