"""Benchmarks the engine against its peers with the same model, prompts, sampling and token limits, and cold caches.

Short trials first select the best settings of each peer on this machine: the layout (quantisation of the weights) and,
for a server, the slot count. Then the arms run in turns: our engine with several slot counts, llama.cpp's server (PyPI
xllamacpp) and plain llama_cpp.Llama. Both arms of a ratio get the same requests.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from dermnote_contracts.notes import Strategy
from dermnote_notegen.engine.model import find_weights
from dermnote_notegen.engine.server import OPENMP_SPINS
from dermnote_notegen.settings import Settings
from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.priors import load_priors
from lab.throughput.arms import Run
from lab.throughput.bench import Bench, layouts
from lab.throughput.report import plot, ratios, summary, table
from lab.throughput.requests import CHOICE, Diagnoses, Facts, Mix
from lab.throughput.selection import Candidate, Selection, choose_free, choose_guided, choose_plain

SIDES = ("ours", "server", "plain")
SELECTION_SALT = 0  # rounds use salts from 1 on, so their requests differ from those of the selection

Arm = Callable[[int], Run]


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--notes", type=int, default=36, help="requests per round of our arms and the server's P2 arms")
    parser.add_argument(
        "--few",
        type=int,
        default=16,
        help="requests per round of the slow arms and of our arms that are compared with them",
    )
    parser.add_argument("--tries", type=int, default=16, help="requests per trial when selecting a peer's settings")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 8, 16, 24, 32], help="slot counts of our G arms")
    parser.add_argument("--free-slots", type=int, nargs="+", default=[16, 24], help="slot counts of our P2 arms")
    parser.add_argument("--few-slots", type=int, nargs="+", default=[24], help="slot counts of our --few arms")
    parser.add_argument("--server-slots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--server-layouts", nargs="+", default=["source", "Q8_0", "BF16", "IQ4_NL", "Q4_0"])
    parser.add_argument("--plain-layouts", nargs="+", default=["source", "Q8_0", "BF16", "Q4_0"])
    parser.add_argument("--diagnoses", choices=get_args(Diagnoses), default="common")
    parser.add_argument(
        "--facts",
        choices=get_args(Facts),
        default="shared",
        help="shared: only the facts that both P2 and G state; all: symptoms and findings too",
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--out", type=Path, default=Path("lab/results/engine.json"))
    return parser.parse_args(given)


def choose(bench: Bench, arguments: argparse.Namespace) -> dict[str, Selection]:
    """Select the best settings of each peer; the keys are prefixes of the names of its arms."""
    selections: dict[str, Selection] = {}
    few = max(1, arguments.tries // 2)

    def server(strategy: Strategy, candidate: Candidate, notes: int) -> Run:
        name = f"server {strategy} {candidate}"
        return printed("selection", bench.server(name, strategy, candidate, salt=SELECTION_SALT, notes=notes))

    def plain(candidate: Candidate) -> Run:
        name = f"plain Llama P2 {candidate.layout}"
        return printed("selection", bench.plain(name, candidate, salt=SELECTION_SALT, notes=few))

    if "server" in arguments.sides:
        free = choose_free(
            lambda candidate: server("P2", candidate, arguments.tries),
            layouts=arguments.server_layouts,
            slots=arguments.server_slots,
        )
        layout = free.best["notes/s"].layout
        selections["server P2"] = free
        selections["server G"] = choose_guided(lambda candidate: server("G", candidate, few), layout=layout)
    if "plain" in arguments.sides:
        selections["plain Llama P2"] = choose_plain(plain, layouts=arguments.plain_layouts)
    return selections


def our_arms(bench: Bench, arguments: argparse.Namespace) -> dict[str, Arm]:
    """Name -> a function that runs one round: G and P2 with --notes requests, and with --few like the slow peers.

    With the facts `shared`, an additional arm of G also states symptoms and findings; it is part of no ratio.
    """

    def arm(name: str, strategy: Strategy, slots: int, notes: int, *, facts: Facts | None = None) -> Arm:
        return lambda turn: bench.ours(name, strategy, slots=slots, salt=turn, notes=notes, facts=facts)

    variants: list[tuple[Strategy, list[int], int, str]] = [
        ("G", arguments.slots, arguments.notes, ""),
        ("P2", arguments.free_slots, arguments.notes, ""),
        ("G", arguments.few_slots, arguments.few, ", few"),
        ("P2", arguments.few_slots, arguments.few, ", few"),
    ]
    names = {
        f"ours {strategy} {slots} slots{few}": (strategy, slots, notes)
        for strategy, counts, notes, few in variants
        for slots in counts
    }
    arms = {name: arm(name, *rest) for name, rest in names.items()}
    if arguments.facts == "shared":
        rich = {f"all facts: ours G {slots} slots": slots for slots in arguments.few_slots}
        arms |= {name: arm(name, "G", slots, arguments.notes, facts="all") for name, slots in rich.items()}
    return arms


def peer_arms(bench: Bench, arguments: argparse.Namespace, chosen: Mapping[str, Selection]) -> dict[str, Arm]:
    """Name -> a function that runs one round, for all settings that the selection kept."""

    def server(name: str, strategy: Strategy, candidate: Candidate, notes: int) -> Arm:
        return lambda turn: bench.server(name, strategy, candidate, salt=turn, notes=notes)

    def plain(name: str, candidate: Candidate) -> Arm:
        return lambda turn: bench.plain(name, candidate, salt=turn, notes=arguments.few)

    arms: dict[str, Arm] = {}
    kept = [(begins, candidate) for begins, selection in chosen.items() for candidate in selection.kept]
    for begins, candidate in kept:
        name = f"{begins} {candidate}"
        if begins == "server P2":
            arms[name] = server(name, "P2", candidate, arguments.notes)
        elif begins == "server G":
            arms[name] = server(name, "G", candidate, arguments.few)
        else:
            arms[f"{begins} {candidate.layout}"] = plain(f"{begins} {candidate.layout}", candidate)
    return arms


def printed(when: str, run: Run) -> Run:
    """Print a run and return it."""
    print(
        f"{when}: {run.arm}, {run.notes} requests: {run.notes_per_s:.2f} notes/s, {run.faithful_per_s:.2f} faithful, "
        f"{run.sampled_per_s:.0f} sampled tokens/s",
        flush=True,
    )
    return run


def limits() -> dict[str, float]:
    """Tokens per second of llama.cpp alone, in the engine's layout: an upper bound for the engine."""
    code = "import json; from lab.peers.limits import measured; print(json.dumps(measured()))"
    done = subprocess.run(  # noqa: S603 - the command is the benchmark's own
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        check=True,
        env=os.environ | {"GOMP_SPINCOUNT": OPENMP_SPINS},
    )
    bounds: dict[str, float] = json.loads(done.stdout)
    return bounds


def measure(arguments: argparse.Namespace, *, folder: Path) -> tuple[dict[str, Selection], list[Run]]:
    """Run the benchmark; returns (the peers' selected settings, the rounds of all arms)."""
    names = [*arguments.server_layouts, *arguments.plain_layouts] if set(arguments.sides) != {"ours"} else []
    priors = load_priors()
    bench = Bench(
        files=layouts(names, source=find_weights("smollm2")[1], folder=folder),
        folder=folder,
        threads=Settings().engine_threads,
        priors=priors,
        verifier=Verifier(priors),
        mix=Mix(arguments.diagnoses, arguments.facts),
    )
    chosen = choose(bench, arguments)
    arms = (our_arms(bench, arguments) if "ours" in arguments.sides else {}) | peer_arms(bench, arguments, chosen)
    turns = range(1, arguments.rounds + 1)
    return chosen, [printed(f"round {turn}", arm(turn)) for turn in turns for arm in arms.values()]


def request_record(arguments: argparse.Namespace) -> dict[str, Any]:
    """A description of the requests for the JSON file."""
    given = {name: getattr(arguments, name) for name in ("notes", "few", "tries", "diagnoses", "facts")}
    drawn = (
        CHOICE
        if arguments.diagnoses == "common"
        else f"as common, but all diagnoses with a prior equally likely: {CHOICE}"
    )
    return given | {"drawn": drawn}


def cpu() -> dict[str, Any]:
    """The processor's name, and the vector extensions (AVX, AMX, F16C) that decide which kernels llama.cpp uses."""
    lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    units = [flag for flag in fields.get("flags", "").split() if flag.startswith(("avx", "amx", "f16c"))]
    return {"model": fields.get("model name", ""), "vector_units": sorted(units)}


def main() -> None:
    """Select, measure, print a table, write JSON and a plot."""
    arguments = read_arguments()
    with tempfile.TemporaryDirectory(prefix="dn-") as folder:
        bounds = limits()
        chosen, runs = measure(arguments, folder=Path(folder))
    rows = summary(runs)
    comparison = ratios(rows)
    print(table(rows))
    print(
        "llama.cpp's own limits on this machine:",
        ", ".join(f"{what} {rate:.0f} tokens/s" for what, rate in bounds.items()),
    )
    for begins, selection in chosen.items():
        print(f"{begins}, best by", ", ".join(f"{what}: {best}" for what, best in selection.best.items()))
    for what, ratio in comparison.items():
        print(f"{what}: {ratio:.1f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "cpu": cpu(),
        "requests": request_record(arguments),
        "limits": bounds,
        "selection": {begins: selection.record() for begins, selection in chosen.items()},
        "arms": rows,
        "ratios": comparison,
        "runs": [asdict(run) for run in runs],
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    plot(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
