"""Notes per second: the whole path (POST, Redis, worker, engine, GET) over the bare engine, on the same cores.

The same G requests in turns, median of the rounds; both sides were warmed with a batch of their own before. The bare
engine is asked over its socket for completions that were rendered before, and nobody verifies them. Needs the local
stack (`make up`); its engine idles while the bare one is measured.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dermnote_notegen.settings import Settings
from dermnote_notegen.writing.priors import load_priors
from dermnote_train.remote.notegen import NoteService
from dermnote_train.settings import Settings as ClientSettings
from lab.throughput.arms import ask_ours, our_engine
from lab.throughput.requests import Asked, Mix, asked

POLL_S = 0.25
WARM_NOTES = 100

Seconds = dict[str, list[float]]


def whole_path(service: NoteService, batch: Sequence[Asked]) -> tuple[float, int]:
    """(seconds until the last note was fetched, notes that are the model's own and faithful)."""
    begun = time.perf_counter()
    job = service.submit_batch([ask.request for ask in batch])
    while service.batch(job.id).ended < len(batch):
        time.sleep(POLL_S)
    written = [note for done in service.batch_notes(job.id) for note in done.notes]
    good = sum(note.verification.faithful and note.provenance.source == "llm" for note in written)
    return time.perf_counter() - begun, good


def in_turns(service: NoteService, socket: Path, *, notes: int, rounds: int, workers: int) -> tuple[Seconds, int]:
    """(seconds of each round by side, notes of the path that are the model's own and faithful).

    Raises SystemExit where the bare engine fails a request.
    """
    priors = load_priors()
    seconds: Seconds = {"whole path": [], "bare engine": []}
    good = 0
    for turn in range(rounds + 1):  # the first only warms both
        count = notes if turn else WARM_NOTES
        batch = asked(count, strategy="G", salt=7 + turn, priors=priors, mix=Mix(facts="shared"))
        path_s, faithful = whole_path(service, batch)
        answers, bare_s = ask_ours(socket, batch, concurrency=workers)
        if None in answers:
            raise SystemExit(f"the bare engine failed {answers.count(None)} of {count} requests")
        if turn:
            seconds["whole path"].append(path_s)
            seconds["bare engine"].append(bare_s)
            good += faithful
            print(f"round {turn}: path {count / path_s:.2f}, bare {count / bare_s:.2f} notes/s", flush=True)
    return seconds, good


def report(seconds: Seconds, good: int, *, notes: int) -> dict[str, Any]:
    """Medians of the rounds and their ratio. `notes`: of one round; `good`: of all rounds."""
    rates = {side: statistics.median(notes / one for one in rounds) for side, rounds in seconds.items()}
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "notes": notes,
        "notes_per_s": rates,
        "faithful_share": good / (notes * len(seconds["whole path"])),
        "ratio": rates["whole path"] / rates["bare engine"],
        "rounds_s": seconds,
    }


def main() -> None:
    """Measure in turn, print both rates and their ratio, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("lab/results/notes_path.json"))
    arguments = parser.parse_args()
    settings = Settings()
    with (
        tempfile.TemporaryDirectory(prefix="dn-") as folder,
        NoteService(ClientSettings().notegen_url) as service,
        our_engine(settings.engine_slots, folder=Path(folder)) as (_, socket),
    ):
        service.require_ready()
        seconds, good = in_turns(
            service, socket, notes=arguments.notes, rounds=arguments.rounds, workers=settings.worker_count
        )
    record = report(seconds, good, notes=arguments.notes)
    for side, rate in record["notes_per_s"].items():
        print(f"{side:<12} {rate:6.2f} notes/s")
    share = record["faithful_share"]
    print(f"whole path / bare engine: {record['ratio']:.2f}; faithful and the model's own: {share:.1%}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
