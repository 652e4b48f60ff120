"""Fidelity: are notes faithful, how often at first try, and do they differ? Random rows of metadata tables.

Needs the local stack (`make up`). `--table` names a metadata CSV (HAM10000, PAD-UFES-20, plain); drawn lesions without.
M and G as delivered by default (`retry`); P1 to P3 under `fallback`, so that `source: llm` is faithful at first try.
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
LEAST_OF_A_DIAGNOSIS = 30


@dataclass(frozen=True)
class Written:
    """One note beside what it was asked for."""

    request: NoteRequest
    note: Note

    @property
    def masked(self) -> str:
        """The text with the given facts masked, so that what is left is the note's own wording."""
        text = self.note.text
        for fact in sorted(self.note.facts, key=lambda fact: fact.start, reverse=True):
            text = f"{text[: fact.start]}[{fact.field}]{text[fact.end :]}"
        return text


@dataclass(frozen=True)
class Figures:
    """One strategy on one table. Shares and coverage 0 to 1; `second_checker`: share that the other checker passes."""

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
    """One request a row, each with a seed of its own; none for rows that hold nothing which the strategy carries."""
    policy = POLICY[strategy]
    wanted = [
        NoteRequest(metadata=row, strategy=strategy, options=NoteOptions(seed=number, on_unfaithful=policy))
        for number, row in enumerate(rows, start=seed * 100_000)
    ]
    return [request for request in wanted if _can_be_written(request)]


def _can_be_written(request: NoteRequest) -> bool:
    try:
        note_facts(request)
    except NoFacts:
        return False
    return True


def write(service: NoteService, wanted: Sequence[NoteRequest]) -> tuple[list[Written], float]:
    """The notes of all requests and the seconds that they took. Raises RuntimeError when one failed."""
    begun = time.perf_counter()
    written: list[Written] = []
    for start in range(0, len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        batch = service.submit_batch(part)
        while service.batch(batch.id).ended < len(part):
            time.sleep(0.2)
        for request, job in zip(part, service.batch_notes(batch.id), strict=True):
            if job.error is not None:
                raise RuntimeError(f"{job.error.code}: {job.error.detail}")
            written += [Written(request, note) for note in job.notes]
    return written, time.perf_counter() - begun


def figures(strategy: Strategy, written: Sequence[Written], seconds: float) -> Figures:
    """All figures of one strategy's notes."""
    notes = [one.note for one in written]
    masked = [one.masked for one in written]
    tokens = [note.provenance.tokens for note in notes]
    n = len(notes)
    return Figures(
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


def second_opinion(one: Written) -> list[str]:
    """What the other checker finds wrong."""
    facts = note_facts(one.request)
    prior = load_priors().get(facts.diagnosis or "")
    return check(one.note.text, facts=facts.stated, allowed=facts.allowed, prior=prior)


def distinct(texts: Iterable[str], n: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016, arXiv 1510.03055)."""
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


def most_frequent(written: Sequence[Written]) -> float:
    """Largest share of one masked text among a diagnosis' notes, over diagnoses with at least 30 notes; 0 if none."""
    by_diagnosis: dict[str | None, list[str]] = defaultdict(list)
    for one in written:
        by_diagnosis[one.request.metadata.diagnosis].append(one.masked)
    shares = [
        Counter(texts).most_common(1)[0][1] / len(texts)
        for texts in by_diagnosis.values()
        if len(texts) >= LEAST_OF_A_DIAGNOSIS
    ]
    return max(shares, default=0.0)


def rows_of(path: Path | None, *, count: int, seed: int) -> list[LesionMetadata]:
    """Random rows of a table, by diagnosis (whose prompts share most); of drawn lesions without one."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            drawn = draw_dataset(Path(folder) / "drawn", seed=seed, count=count)
            rows = read_metadata(drawn / "metadata.csv")
    else:
        rows = read_metadata(path, leaky_fields=True)
    chosen = random.Random(seed).sample(list(rows), min(count, len(rows)))
    return sorted(chosen, key=lambda row: row.diagnosis or "")


def show(table: str, found: Sequence[Figures]) -> None:
    """Print the figures, one line a strategy."""
    names = [name for name in asdict(found[0]) if name != "strategy"]
    print(f"\n{table}\n{'':<16}" + "".join(f"{one.strategy:>9}" for one in found))
    for name in names:
        print(f"{name:<16}" + "".join(f"{asdict(one)[name]:9.3f}" for one in found))


def plot(results: dict[str, list[Figures]], path: Path) -> None:
    """Faithful at first try and delivered, beside what one text's share and self-BLEU say of variety."""
    from matplotlib.figure import Figure  # noqa: PLC0415  takes a second, and only the plot needs it

    figure = Figure(figsize=(9, 3.2 * len(results)), layout="constrained")
    for axes, (table, found) in zip(figure.subplots(len(results), squeeze=False)[:, 0], results.items(), strict=True):
        for offset, name in enumerate(("first_try", "delivered", "self_bleu", "most_frequent")):
            places = [number + 0.2 * offset - 0.3 for number in range(len(found))]
            axes.bar(places, [asdict(one)[name] for one in found], width=0.18, label=name.replace("_", " "))
        axes.set_xticks(range(len(found)), [one.strategy for one in found])
        axes.set(ylim=(0, 1.05), title=f"{table}: {found[0].notes} notes a strategy", ylabel="share")
        axes.legend(ncols=4, fontsize="small")
    figure.savefig(path)


def main() -> None:
    """Measure, print, write JSON, the plot and the notes themselves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, action="append", help="metadata CSV; may be given several times")
    parser.add_argument("--notes", type=int, default=60, help="rows of each table")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("lab/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Figures]] = {}
    with (
        NoteService(Settings().notegen_url) as service,
        (arguments.out / "fidelity_notes.jsonl").open("w") as kept,
    ):
        service.require_ready()
        model = service.model()
        for path in arguments.table or [None]:
            rows = rows_of(path, count=arguments.notes, seed=arguments.seed)
            name = path.stem if path else "drawn lesions"
            results[name] = []
            for strategy in arguments.strategies:
                written, seconds = write(service, requests(rows, strategy, seed=arguments.seed))
                results[name].append(figures(strategy, written, seconds))
                for one in written:
                    second = second_opinion(one)
                    line = {"table": name, "request": one.request.model_dump(mode="json"), "second": second}
                    kept.write(json.dumps(line | {"note": one.note.model_dump(mode="json")}) + "\n")
            show(name, results[name])
    record = {name: [asdict(one) for one in found] for name, found in results.items()}
    report = {"model": model.model_dump(), "seed": arguments.seed, "tables": record}
    (arguments.out / "fidelity.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(results, arguments.out / "fidelity.png")


if __name__ == "__main__":
    main()
