"""Measures the faithfulness and variety of notes for random rows of metadata tables.

Needs the local stack (`make up`). `--table` names a metadata CSV; without it, lesions are drawn as in `dermnote demo`.
M and G use the default `on_unfaithful: retry`; P1 to P3 use `fallback`, with which `source: llm` means that the note
was faithful at the first attempt.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from sacrebleu.metrics.bleu import BLEU

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.notes import Note, NoteOptions, NoteRequest, OnUnfaithful, Strategy
from dermnote_contracts.problems import NoFacts
from dermnote_notegen.writing.priors import load_priors
from dermnote_notegen.writing.strategies import note_facts
from dermnote_train.data.adapters import read_metadata
from dermnote_train.data.draw import draw_dataset
from dermnote_train.remote.notegen import NoteService
from dermnote_train.settings import Settings
from lab.second_checker import check

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
POLICY: dict[Strategy, OnUnfaithful] = {
    "M": "retry",
    "G": "retry",
    "P1": "fallback",
    "P2": "fallback",
    "P3": "fallback",
}
BATCH = 500
SELF_BLEU_SAMPLE = 100
MIN_NOTES_PER_DIAGNOSIS = 30


@dataclass(frozen=True)
class WrittenNote:
    """One note with its request."""

    request: NoteRequest
    note: Note

    @property
    def masked(self) -> str:
        """The text with its facts masked, which leaves the note's own wording."""
        text = self.note.text
        for fact in sorted(self.note.facts, key=lambda fact: fact.start, reverse=True):
            text = f"{text[: fact.start]}[{fact.field}]{text[fact.end :]}"
        return text


@dataclass(frozen=True)
class Results:
    """Results of one strategy on one table; shares are 0 to 1. `second_checker`: the share that it accepts."""

    strategy: str
    notes: int
    first_try: float
    delivered: float
    second_checker: float
    from_model: float
    coverage: float
    distinct_1: float
    distinct_2: float
    distinct_3: float
    self_bleu: float
    most_frequent: float
    words: float
    prompt_tokens: float
    cached_tokens: float
    forced_tokens: float
    sampled_tokens: float
    decisions: float
    notes_per_s: float


def requests(rows: Sequence[LesionMetadata], strategy: Strategy, *, seed: int) -> list[NoteRequest]:
    """One request per row, each with its own seed; rows without a fact for the strategy are skipped."""
    policy = POLICY[strategy]
    all_requests = [
        NoteRequest(metadata=row, strategy=strategy, options=NoteOptions(seed=number, on_unfaithful=policy))
        for number, row in enumerate(rows, start=seed * 100_000)
    ]
    return [request for request in all_requests if _has_facts(request)]


def _has_facts(request: NoteRequest) -> bool:
    try:
        note_facts(request)
    except NoFacts:
        return False
    return True


def write(service: NoteService, requests: Sequence[NoteRequest]) -> tuple[list[WrittenNote], float]:
    """Write the notes of all requests; returns notes and seconds taken. Raises RuntimeError if a note failed."""
    started = time.perf_counter()
    written: list[WrittenNote] = []
    for start in range(0, len(requests), BATCH):
        part = requests[start : start + BATCH]
        batch = service.submit_batch(part)
        while service.batch(batch.id).ended < len(part):
            time.sleep(0.2)
        for request, job in zip(part, service.batch_notes(batch.id), strict=True):
            if job.error is not None:
                raise RuntimeError(f"{job.error.code}: {job.error.detail}")
            written += [WrittenNote(request, note) for note in job.notes]
    return written, time.perf_counter() - started


def evaluate(strategy: Strategy, written: Sequence[WrittenNote], seconds: float) -> Results:
    """The results of one strategy's notes."""
    notes = [one.note for one in written]
    masked = [one.masked for one in written]
    tokens = [note.provenance.tokens for note in notes]
    n = len(notes)
    return Results(
        strategy=strategy,
        notes=n,
        first_try=sum(_at_first_try(note) for note in notes) / n,
        delivered=sum(note.verification.faithful for note in notes) / n,
        second_checker=sum(not second_opinion(one) for one in written) / n,
        from_model=sum(note.provenance.source == "llm" for note in notes) / n,
        coverage=statistics.mean(note.verification.coverage for note in notes),
        distinct_1=distinct(masked, 1),
        distinct_2=distinct(masked, 2),
        distinct_3=distinct(masked, 3),
        self_bleu=self_bleu(masked),
        most_frequent=most_frequent(written),
        words=statistics.mean(len(note.text.split()) for note in notes),
        prompt_tokens=statistics.mean(token.prompt for token in tokens),
        cached_tokens=statistics.mean(token.cached for token in tokens),
        forced_tokens=statistics.mean(token.forced for token in tokens),
        sampled_tokens=statistics.mean(token.sampled for token in tokens),
        decisions=statistics.mean(token.decisions for token in tokens),
        notes_per_s=n / seconds,
    )


def _at_first_try(note: Note) -> bool:
    if note.strategy == "M":
        return note.verification.faithful
    return note.provenance.source == "llm" and note.provenance.attempts == 1 and note.verification.faithful


def second_opinion(one: WrittenNote) -> list[str]:
    """The second checker's problems with a note."""
    facts = note_facts(one.request)
    prior = load_priors().get(facts.diagnosis or "")
    return check(one.note.text, facts=facts.stated, allowed=facts.allowed, prior=prior)


def distinct(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams divided by all n-grams (Li et al. 2016, arXiv 1510.03055)."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU-4 of each text against all others, 0 to 1 (Zhu et al. 2018, arXiv 1802.01886), on a sample."""
    sample = random.Random(0).sample(list(texts), min(SELF_BLEU_SAMPLE, len(texts)))
    if len(sample) < 2:
        return 1.0
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(text, [other for j, other in enumerate(sample) if j != i]).score
        for i, text in enumerate(sample)
    ]
    return statistics.mean(scores) / 100


def most_frequent(written: Sequence[WrittenNote]) -> float:
    """Largest share of one masked text among a diagnosis's notes, over diagnoses with 30 or more notes; 0 if none."""
    by_diagnosis: dict[str | None, list[str]] = defaultdict(list)
    for one in written:
        by_diagnosis[one.request.metadata.diagnosis].append(one.masked)
    shares = [
        Counter(texts).most_common(1)[0][1] / len(texts)
        for texts in by_diagnosis.values()
        if len(texts) >= MIN_NOTES_PER_DIAGNOSIS
    ]
    return max(shares, default=0.0)


def rows_of(path: Path | None, *, count: int, seed: int) -> list[LesionMetadata]:
    """Random rows of a table, or of drawn lesions, sorted by diagnosis, so that prompts share prefixes."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            drawn = draw_dataset(Path(folder) / "drawn", seed=seed, count=count)
            rows = read_metadata(drawn / "metadata.csv")
    else:
        rows = read_metadata(path, leaky_fields=True)
    chosen = random.Random(seed).sample(list(rows), min(count, len(rows)))
    return sorted(chosen, key=lambda row: row.diagnosis or "")


def show(table: str, results: Sequence[Results]) -> None:
    """Print the results, one column per strategy."""
    names = [name for name in asdict(results[0]) if name != "strategy"]
    print(f"\n{table}\n{'':<16}" + "".join(f"{one.strategy:>9}" for one in results))
    for name in names:
        print(f"{name:<16}" + "".join(f"{asdict(one)[name]:9.3f}" for one in results))


def plot(results: dict[str, list[Results]], path: Path) -> None:
    """Plot faithfulness (at the first attempt, as delivered) and variety (most frequent text's share, self-BLEU)."""
    from matplotlib.figure import Figure  # noqa: PLC0415  takes a second, and only the plot needs it

    figure = Figure(figsize=(9, 3.2 * len(results)), layout="constrained")
    for axes, (table, found) in zip(figure.subplots(len(results), squeeze=False)[:, 0], results.items(), strict=True):
        for offset, name in enumerate(("first_try", "delivered", "self_bleu", "most_frequent")):
            places = [number + 0.2 * offset - 0.3 for number in range(len(found))]
            axes.bar(places, [asdict(one)[name] for one in found], width=0.18, label=name.replace("_", " "))
        axes.set_xticks(range(len(found)), [one.strategy for one in found])
        axes.set(ylim=(0, 1.05), title=f"{table}: {found[0].notes} notes per strategy", ylabel="share")
        axes.legend(ncols=4, fontsize="small")
    figure.savefig(path)


def main() -> None:
    """Measure; print the results and write them as JSON, with a plot and all notes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, action="append", help="metadata CSV; may be given several times")
    parser.add_argument("--notes", type=int, default=60, help="number of rows to use from each table")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("lab/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Results]] = {}
    with (
        NoteService(Settings().notegen_url) as service,
        (arguments.out / "fidelity_notes.jsonl").open("w") as notes_file,
    ):
        service.require_ready()
        model = service.model()
        for path in arguments.table or [None]:
            rows = rows_of(path, count=arguments.notes, seed=arguments.seed)
            name = path.stem if path else "drawn lesions"
            results[name] = []
            for strategy in arguments.strategies:
                written, seconds = write(service, requests(rows, strategy, seed=arguments.seed))
                results[name].append(evaluate(strategy, written, seconds))
                for one in written:
                    second = second_opinion(one)
                    line = {"table": name, "request": one.request.model_dump(mode="json"), "second": second}
                    notes_file.write(json.dumps(line | {"note": one.note.model_dump(mode="json")}) + "\n")
            show(name, results[name])
    record = {name: [asdict(one) for one in found] for name, found in results.items()}
    report = {"model": model.model_dump(), "seed": arguments.seed, "tables": record}
    (arguments.out / "fidelity.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(results, arguments.out / "fidelity.png")


if __name__ == "__main__":
    main()
