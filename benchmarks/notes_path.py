"""Notes per second: the whole path (POST, Redis, worker, engine, GET) beside plain llama_cpp.Llama in a loop.

The same requests, weights, prompts and note limit on both sides, in turn, median of the rounds. Needs the local stack
(`make up`); what else runs on the machine changes both.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import llama_cpp

from dermnote_contracts.notes import NoteRequest
from dermnote_notegen import notes
from dermnote_notegen.engine.model import find_weights
from dermnote_notegen.priors import load_priors
from dermnote_notegen.render import render
from dermnote_notegen.strategies import note_facts
from dermnote_notegen.verify import Verifier
from dermnote_train.remote.notegen import NoteService
from dermnote_train.settings import read_settings

SITES = ("back", "face", "chest", "abdomen", "foot", "hand")
DIAGNOSES = ("melanoma", "nevus", "basal cell carcinoma", "benign keratosis", "actinic keratosis")


def requests(count: int, *, salt: int) -> list[NoteRequest]:
    """Distinct P2 requests, each asked of the model once and kept as it comes."""
    return [
        NoteRequest.model_validate(
            {
                "metadata": {
                    "age": 20 + (index * 7 + salt) % 70,
                    "sex": ("female", "male")[index % 2],
                    "site": SITES[index % len(SITES)],
                    "diagnosis": DIAGNOSES[index % len(DIAGNOSES)],
                },
                "strategy": "P2",
                "options": {"seed": salt * 10_000 + index, "on_unfaithful": "keep"},
            }
        )
        for index in range(count)
    ]


def whole_path(service: NoteService, batch: list[NoteRequest]) -> tuple[float, int]:
    """(seconds, faithful notes) of a batch through the service."""
    begun = time.perf_counter()
    job = service.submit_batch(batch)
    while service.batch(job.id).ended < len(batch):
        time.sleep(0.05)
    written = [note for done in service.batch_notes(job.id) for note in done.notes]
    return time.perf_counter() - begun, sum(note.verification.faithful for note in written)


def plain_loop(model: llama_cpp.Llama, verifier: Verifier, batch: list[NoteRequest]) -> tuple[float, int]:
    """(seconds, faithful notes) of the same prompts, one after the other; it keeps the last prompt's prefix too."""
    begun, faithful = time.perf_counter(), 0
    for request in batch:
        facts = note_facts(request)
        prompt = render("P2", facts=facts, prior=None, options=request.options, seed=request.options.seed or 0)
        answer = model.create_completion(
            prompt.text,
            max_tokens=prompt.max_tokens,
            temperature=prompt.temperature,
            top_p=0.95,
            seed=request.options.seed,
            stop=list(prompt.stop),
        )
        choice = answer["choices"][0]  # type: ignore[index]
        text = notes.tidy(choice["text"], finished=choice["finish_reason"] == "stop")
        faithful += verifier.verify(text, facts=facts.stated, allowed=facts.allowed).verification.faithful
    return time.perf_counter() - begun, faithful


def main() -> None:
    """Measure in turn, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/notes_path.json"))
    arguments = parser.parse_args()
    name, path, _ = find_weights("smollm2")
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    cores = os.cpu_count()
    model = llama_cpp.Llama(str(path), n_ctx=2048, n_threads=cores, n_threads_batch=cores, verbose=False)
    verifier = Verifier(load_priors())
    figures: dict[str, list[tuple[float, int]]] = {"whole path": [], "plain Llama loop": []}
    with NoteService(read_settings().notegen_url) as service:
        service.require_ready()
        for turn in range(arguments.rounds):
            batch = requests(arguments.notes, salt=turn + 1)
            figures["whole path"].append(whole_path(service, batch))
            figures["plain Llama loop"].append(plain_loop(model, verifier, batch))
    rates = {
        arm: statistics.median(arguments.notes / seconds for seconds, _ in rounds) for arm, rounds in figures.items()
    }
    shares = {
        arm: sum(good for _, good in rounds) / (arguments.notes * arguments.rounds) for arm, rounds in figures.items()
    }
    ratio = rates["whole path"] / rates["plain Llama loop"]
    for arm, rate in rates.items():
        print(f"{arm:<18} {rate:6.2f} notes/s   faithful at first try {shares[arm]:.0%}")
    print(f"whole path / plain loop: {ratio:.2f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "model": name,
        "machine": f"{platform.processor() or platform.machine()}, {cores} cores",
        "notes_per_s": rates,
        "faithful_share": shares,
        "ratio": ratio,
        "rounds_s": {arm: [seconds for seconds, _ in rounds] for arm, rounds in figures.items()},
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
