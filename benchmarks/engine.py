"""The engine beside its peers: the same weights, prompts, sampling and note limit; caches cold, requests distinct.

Ours at several slot counts, llama.cpp's own server (PyPI xllamacpp) and plain llama_cpp.Llama in a loop, in turns.
G for us, P2 for everybody, G's prompt and grammar for the server too. Every text goes through the verifier afterwards.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from matplotlib.figure import Figure

from benchmarks.peers.client import PeerRequest
from benchmarks.peers.client import measure as measure_peer
from benchmarks.peers.llama_server import ServerSettings, context_for
from benchmarks.peers.plain_llama import PlainSettings, plain_llama
from benchmarks.peers.process import ServerProcess, llama_server, server_process
from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import NoteRequest, Strategy
from dermnote_notegen import notes
from dermnote_notegen.engine.model import find_weights
from dermnote_notegen.priors import Priors, load_priors
from dermnote_notegen.render import render
from dermnote_notegen.strategies import note_facts
from dermnote_notegen.verify import Verifier

SITES = ("back", "face", "chest", "abdomen", "foot", "hand", "neck", "scalp", "lower extremity", "upper extremity")
DIAGNOSES = ("melanoma", "nevus", "basal cell carcinoma", "benign keratosis", "actinic keratosis", "dermatofibroma")
REQUEST_TOKENS = 768  # no prompt with its answer is longer
ENGINE_READY_S = 300  # the first start measures the weights' layouts


@dataclass(frozen=True)
class Asked:
    """One note's request, and the completion that it becomes."""

    request: NoteRequest
    completion: CompletionRequest


@dataclass(frozen=True)
class Text:
    """One answer. `sampled`: tokens that were drawn from logits, rather than fixed by a grammar and appended."""

    text: str
    finished: bool
    sampled: int


@dataclass(frozen=True)
class Run:
    """One arm's round. `processed`: tokens decoded, prompts included; `faithful`: by the verifier, at first try."""

    arm: str
    notes: int
    seconds: float
    sampled: int
    processed: int
    faithful: int
    failed: int
    peak_mib: float

    @property
    def notes_per_s(self) -> float:
        """Answered notes, over wall seconds."""
        return (self.notes - self.failed) / self.seconds

    @property
    def faithful_per_s(self) -> float:
        """Notes that pass the verifier at first try, over wall seconds."""
        return self.faithful / self.seconds


def asked(count: int, *, strategy: Strategy, salt: int, priors: Priors) -> list[Asked]:
    """Distinct requests with age, sex, site and diagnosis; `salt`: another salt, other requests."""
    return [_asked(index, strategy=strategy, salt=salt, priors=priors) for index in range(count)]


def _asked(index: int, *, strategy: Strategy, salt: int, priors: Priors) -> Asked:
    number = salt * 1009 + index
    metadata = {
        "age": 18 + (number * 7) % 73,
        "sex": ("female", "male")[number % 2],
        "site": SITES[number * 3 % len(SITES)],
        "diagnosis": DIAGNOSES[number * 5 % len(DIAGNOSES)],
    }
    request = NoteRequest.model_validate({"metadata": metadata, "strategy": strategy, "options": {"seed": number}})
    facts = note_facts(request)
    prior = priors.get(facts.diagnosis or "")
    prompt = render(strategy, facts=facts, prior=prior, options=request.options, seed=number)
    return Asked(request, notes.completion(prompt, seed=number))


@contextmanager
def our_engine(slots: int, *, folder: Path) -> Iterator[tuple[ServerProcess, Path]]:
    """The engine process as it is shipped, by its socket; its layout of the weights is made before it is timed."""
    socket = folder / f"engine-{slots}.sock"
    environment = {"NOTEGEN_ENGINE_SOCKET": str(socket), "NOTEGEN_SLOTS": str(slots)}
    command = [sys.executable, "-c", "from dermnote_notegen.engine.app import main; main()"]
    with server_process(
        command,
        url="http://engine",
        socket_path=socket,
        environment=environment,
        healthy="/v1/models",
        ready_s=ENGINE_READY_S,
    ) as process:
        yield process, socket


def ask_ours(
    socket: Path, batch: Sequence[Asked], *, concurrency: int
) -> tuple[list[CompletionResponse | None], float]:
    """(answers, None where one failed; wall seconds)."""

    async def all_of_it() -> list[CompletionResponse | None]:
        turns = asyncio.Semaphore(concurrency)
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=600) as client:

            async def one(ask: Asked) -> CompletionResponse | None:
                async with turns:
                    body = ask.completion.model_dump(mode="json", exclude_defaults=True)
                    answer = await client.post("/v1/completions", json=body)
                if answer.status_code != httpx.codes.OK:
                    return None
                return CompletionResponse.model_validate_json(answer.content)

            return list(await asyncio.gather(*(one(ask) for ask in batch)))

    begun = time.perf_counter()
    answers = asyncio.run(all_of_it())
    return answers, time.perf_counter() - begun


def queued(slots: int) -> int:
    """Requests under way at a time: a few more than slots, so that no slot waits for the client. Alike for all."""
    return slots + max(1, slots // 4)


def run_ours(arm: str, batch: Sequence[Asked], *, slots: int, folder: Path, verifier: Verifier) -> Run:
    """A cold engine asked for the batch."""
    with our_engine(slots, folder=folder) as (process, socket):
        before = decoded(socket)
        answers, seconds = ask_ours(socket, batch, concurrency=queued(slots))
        processed = decoded(socket) - before
        peak = process.usage().peak_bytes
    texts = [
        None
        if answer is None
        else Text(
            answer.choices[0].text,
            answer.choices[0].finish_reason == "stop",
            answer.usage.completion_tokens - answer.usage.forced_tokens,
        )
        for answer in answers
    ]
    return _run(arm, batch, texts, seconds=seconds, processed=processed, peak=peak, verifier=verifier)


def decoded(socket: Path) -> int:
    """Tokens that the engine has decoded so far, from its metrics."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://engine") as client:
        lines = client.get("/metrics").text.splitlines()
    wanted = 'dermnote_engine_tokens_total{kind="decoded"} '
    return int(float(next((line.removeprefix(wanted) for line in lines if line.startswith(wanted)), "0")))


def run_server(arm: str, batch: Sequence[Asked], *, settings: ServerSettings, verifier: Verifier) -> Run:
    """llama.cpp's server, cold."""
    requests = [peer_request(ask.completion) for ask in batch]
    with llama_server(settings) as server:
        answered = measure_peer(server, requests, concurrency=queued(settings.slots))
    texts = [
        None if answer.error else Text(answer.text, answer.finish_reason == "stop", answer.sampled_tokens)
        for answer in answered.answers
    ]
    processed = sum(answer.prefilled_tokens + answer.sampled_tokens for answer in answered.answers)
    return _run(
        arm,
        batch,
        texts,
        seconds=answered.wall_s,
        processed=processed,
        peak=answered.peak_bytes,
        verifier=verifier,
    )


def run_plain(arm: str, batch: Sequence[Asked], *, settings: PlainSettings, verifier: Verifier) -> Run:
    """Plain llama_cpp.Llama, one request after the other; it keeps the last prompt's prefix."""
    answered = plain_llama([peer_request(ask.completion) for ask in batch], settings)
    texts = [Text(one.text, one.finished, one.sampled_tokens) for one in answered.answers]
    processed = sum(one.prefilled_tokens + one.sampled_tokens for one in answered.answers)
    return _run(
        arm, batch, texts, seconds=answered.wall_s, processed=processed, peak=answered.peak_bytes, verifier=verifier
    )


def peer_request(completion: CompletionRequest) -> PeerRequest:
    """The same completion for a peer: whole text, whole grammar."""
    return PeerRequest(
        prompt=completion.prompt,
        max_tokens=completion.max_tokens,
        temperature=completion.temperature,
        seed=completion.seed,
        top_p=completion.top_p,
        top_k=completion.top_k,
        min_p=completion.min_p,
        stop=tuple(completion.stop),
        grammar=completion.grammar,
    )


def _run(
    arm: str,
    batch: Sequence[Asked],
    texts: Sequence[Text | None],
    *,
    seconds: float,
    processed: int,
    peak: int,
    verifier: Verifier,
) -> Run:
    faithful = 0
    for ask, text in zip(batch, texts, strict=True):
        if text is not None:
            facts = note_facts(ask.request)
            written = notes.tidy(text.text, finished=text.finished)
            faithful += verifier.verify(written, facts=facts.stated, allowed=facts.allowed).verification.faithful
    return Run(
        arm,
        len(batch),
        seconds,
        sum(text.sampled for text in texts if text is not None),
        processed,
        faithful,
        sum(text is None for text in texts),
        peak / 2**20,
    )


Arm = Callable[[int], Run]


def arms(arguments: argparse.Namespace, *, folder: Path, priors: Priors) -> dict[str, Arm]:
    """Name -> what runs one round of it; the round's number makes the requests."""
    verifier = Verifier(priors)
    source = find_weights("smollm2")[1]
    files = layouts(arguments.server_layouts, source=source, folder=folder)

    def batch(strategy: Strategy, turn: int) -> list[Asked]:
        count = arguments.notes if strategy == "G" else arguments.free_notes
        return asked(count, strategy=strategy, salt=turn, priors=priors)

    def ours(name: str, strategy: Strategy, slots: int) -> Arm:
        return lambda turn: run_ours(name, batch(strategy, turn), slots=slots, folder=folder, verifier=verifier)

    def server(name: str, strategy: Strategy, layout: str, slots: int) -> Arm:
        settings = ServerSettings(
            model=files[layout],
            slots=slots,
            context_tokens=context_for(slots, request_tokens=REQUEST_TOKENS),
            threads=os.cpu_count() or 1,
        )
        some = arguments.free_notes if strategy == "P2" else arguments.free_notes // 2
        return lambda turn: run_server(name, batch(strategy, turn)[:some], settings=settings, verifier=verifier)

    def plain(name: str, strategy: Strategy) -> Arm:
        settings = PlainSettings(source, context_tokens=2048, threads=os.cpu_count() or 1)
        some = arguments.free_notes // 2
        return lambda turn: run_plain(name, batch(strategy, turn)[:some], settings=settings, verifier=verifier)

    found: dict[str, Arm] = {}
    wanted: dict[Strategy, list[int]] = {"G": arguments.slots, "P2": arguments.free_slots}
    for strategy, counts in wanted.items():
        for slots in counts:
            name = f"ours {strategy} {slots} slots"
            found[name] = ours(name, strategy, slots)
    for layout in arguments.server_layouts:
        for slots in arguments.server_slots:
            name = f"server P2 {layout} {slots} slots"
            found[name] = server(name, "P2", layout, slots)
    best = arguments.server_slots[0]
    for layout in arguments.server_layouts[:1]:
        found[f"server G {layout} {best} slots"] = server(f"server G {layout} {best} slots", "G", layout, best)
    found["plain Llama P2"] = plain("plain Llama P2", "P2")
    return found


def layouts(names: Sequence[str], *, source: Path, folder: Path) -> dict[str, Path]:
    """The weights in each layout; "source" is the file as it came."""
    from dermnote_notegen.engine.llama import quantize  # noqa: PLC0415 - llama.cpp only where it is needed

    found = {"source": source}
    for name in names:
        if name != "source":
            found[name] = folder / f"{name}.gguf"
            quantize(source, found[name], name)
    return found


def limits() -> dict[str, float]:
    """Tokens a second that llama.cpp itself reaches here, in the layout that the engine runs: what bounds us."""
    code = "import json; from benchmarks.peers.limits import measured; print(json.dumps(measured()))"
    done = subprocess.run(  # noqa: S603 - the command is the benchmark's own
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, env=os.environ | {"GOMP_SPINCOUNT": "100000"}
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row an arm: medians over the rounds, with the lowest and highest of faithful notes a second."""
    rows = []
    for arm in dict.fromkeys(run.arm for run in runs):
        of_arm = [run for run in runs if run.arm == arm]
        faithful = sorted(run.faithful_per_s for run in of_arm)
        rows.append(
            {
                "arm": arm,
                "rounds": len(of_arm),
                "sampled_per_s": statistics.median(run.sampled / run.seconds for run in of_arm),
                "processed_per_s": statistics.median(run.processed / run.seconds for run in of_arm),
                "notes_per_s": statistics.median(run.notes_per_s for run in of_arm),
                "faithful_per_s": statistics.median(faithful),
                "faithful_range": [faithful[0], faithful[-1]],
                "faithful_pooled_per_s": sum(run.faithful for run in of_arm) / sum(run.seconds for run in of_arm),
                "faithful_share": sum(run.faithful for run in of_arm) / sum(run.notes for run in of_arm),
                "failed": sum(run.failed for run in of_arm),
                "peak_mib": max(run.peak_mib for run in of_arm),
            }
        )
    return rows


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Our best arm over each peer's best, by medians; a peer with nothing has no ratio.

    Few of a peer's free notes are faithful, a handful a round: of its median and its pooled rate the higher counts.
    """

    def best(begins: str, column: str) -> float:
        columns = [column]
        if column == "faithful_per_s" and not begins.startswith("ours"):
            columns.append("faithful_pooled_per_s")
        return max((float(row[one]) for row in rows if row["arm"].startswith(begins) for one in columns), default=0.0)

    pairs = {
        "G: faithful notes/s over the server's P2": ("ours G", "server P2", "faithful_per_s"),
        "G: notes/s over the server's P2 notes/s, faithful or not": ("ours G", "server P2", "notes_per_s"),
        "G: faithful notes/s over the server's G": ("ours G", "server G", "faithful_per_s"),
        "G: faithful notes/s over plain Llama's P2": ("ours G", "plain Llama P2", "faithful_per_s"),
        "G: notes/s over plain Llama's P2 notes/s, faithful or not": ("ours G", "plain Llama P2", "notes_per_s"),
        "P2: sampled tokens/s over the server's": ("ours P2", "server P2", "sampled_per_s"),
        "P2: sampled tokens/s over plain Llama's": ("ours P2", "plain Llama P2", "sampled_per_s"),
    }
    found = {name: (best(ours, column), best(peer, column)) for name, (ours, peer, column) in pairs.items()}
    return {name: ours / peer for name, (ours, peer) in found.items() if peer}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text."""
    lines = [
        f"{'arm':<26} {'sampled/s':>9} {'tokens/s':>9} {'notes/s':>8} {'faithful/s':>10}  {'spread':<15} share  MiB"
    ]
    for row in rows:
        low, high = row["faithful_range"]
        lines.append(
            f"{row['arm']:<26} {row['sampled_per_s']:9.0f} {row['processed_per_s']:9.0f} {row['notes_per_s']:8.2f} "
            f"{row['faithful_per_s']:10.2f}  [{low:.2f}, {high:.2f}]".ljust(85)
            + f" {row['faithful_share']:4.0%} {row['peak_mib']:5.0f}"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Faithful notes a second of every arm, with lowest and highest, beside all notes a second."""
    figure = Figure(figsize=(8, 0.4 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    names = [row["arm"] for row in rows][::-1]
    faithful = [row["faithful_per_s"] for row in rows][::-1]
    spread = [
        [row["faithful_per_s"] - row["faithful_range"][0] for row in rows][::-1],
        [row["faithful_range"][1] - row["faithful_per_s"] for row in rows][::-1],
    ]
    axes.barh(names, [row["notes_per_s"] for row in rows][::-1], color="0.85", label="all notes")
    axes.barh(names, faithful, xerr=spread, color="tab:blue", height=0.5, label="faithful at first try")
    axes.set_xlabel("notes per second")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure all arms in turns, print a table, write JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--notes", type=int, default=96, help="notes a round of ours under G")
    parser.add_argument(
        "--free-notes",
        type=int,
        default=24,
        help="notes a round of P2; half as many of the server under G and of plain Llama",
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 8, 16, 24, 32])
    parser.add_argument("--free-slots", type=int, nargs="+", default=[16, 24])
    parser.add_argument("--server-slots", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--server-layouts", nargs="+", default=["IQ4_NL", "Q4_0"], help="the best of them first")
    parser.add_argument("--only", default="", help="arms whose names hold this text")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engine.json"))
    arguments = parser.parse_args()
    priors = load_priors()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="dn-") as name:
        folder = Path(name)
        bounds = limits()
        chosen = {
            name: arm for name, arm in arms(arguments, folder=folder, priors=priors).items() if arguments.only in name
        }
        for turn in range(1, arguments.rounds + 1):
            for arm in chosen.values():
                run = arm(turn)
                runs.append(run)
                print(
                    f"round {turn}: {run.arm}: {run.notes_per_s:.2f} notes/s, {run.faithful_per_s:.2f} faithful",
                    flush=True,
                )
    rows = summary(runs)
    print(table(rows))
    print("llama.cpp's own limits here:", ", ".join(f"{what} {rate:.0f} tokens/s" for what, rate in bounds.items()))
    found = ratios(rows)
    for what, ratio in found.items():
        print(f"{what}: {ratio:.1f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    record = {
        "machine": machine,
        "limits": bounds,
        "arms": rows,
        "ratios": found,
        "runs": [asdict(run) for run in runs],
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    plot(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
