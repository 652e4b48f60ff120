"""dermnote notes: a data set's notes over HTTP."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dermnote_contracts.notes import ALL_TOPICS
from dermnote_train.cli import options, screen
from dermnote_train.findings.table import with_findings
from dermnote_train.notes.blinding import BLINDED
from dermnote_train.notes.request import NotesPlan, NotesRun, write_dataset_notes
from dermnote_train.notes.table import NoteRow
from dermnote_train.remote.notegen import NoteService
from dermnote_train.settings import read_settings


def notes(
    folder: options.Folder,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for notes.parquet; DERMNOTE_HOME/notes/NAME (NAME-blinded) by default.")
    ] = None,
    strategy: options.StrategyOption = "G",
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    leaky_fields: options.Leaky = False,
    findings: Annotated[Path | None, typer.Option(help="CSV of dermnote findings, to be said in the notes.")] = None,
    blinded: Annotated[
        bool,
        typer.Option("--blinded", help="Without the diagnosis: what may be said of a picture before there is one."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Notes a request.")] = 64,
    open_batches: Annotated[int, typer.Option(min=1, max=64, help="Batches that the service holds at a time.")] = 4,
) -> None:
    """Have notes written for every image; run it again and it goes on where it stopped."""
    settings = read_settings()
    choice = options.DataChoice(folder, classes, labels, limit, seed, leaky_fields)
    plan = NotesPlan(
        strategy=strategy,
        include=BLINDED if blinded else ALL_TOPICS,
        seed=seed,
        batch_size=batch_size,
        open_batches=open_batches,
    )
    with NoteService(settings.notegen_url, key=settings.notegen_api_key) as service, screen.bars() as progress:
        service.require_ready()
        dataset = options.read_dataset(choice, progress=progress)
        if findings is not None:
            dataset = replace(dataset, records=with_findings(dataset.records, findings))
        where = out or settings.dermnote_home / "notes" / (dataset.name + ("-blinded" if blinded else ""))
        run = write_dataset_notes(service, dataset, plan=plan, out=where, progress=progress)
    show_notes(run)
    screen.say(f"notes: {run.path}")
    if run.failed:
        raise typer.Exit(1)


def show_notes(run: NotesRun) -> None:
    """The figures of a notes run, by strategy, and what failed."""
    strategies = sorted({row.strategy for row in run.rows})
    screen.show_table(
        "Notes",
        (
            "strategy",
            "notes",
            "faithful at first try",
            "faithful",
            "by the model",
            "by template",
            "attempts",
            "notes/s",
        ),
        [_figures([row for row in run.rows if row.strategy == name], name, run) for name in strategies],
    )
    for image_id, reason in list(run.failed.items())[:5]:
        screen.say(f"failed: {image_id}: {reason}")
    if run.failed:
        screen.say(f"{len(run.failed)} notes failed; run the same command again to ask for them anew")


def _figures(rows: list[NoteRow], strategy: str, run: NotesRun) -> tuple[object, ...]:
    first = sum(row.faithful_at_first for row in rows)
    return (
        strategy,
        len(rows),
        f"{first / len(rows):.0%}",
        f"{sum(row.faithful for row in rows) / len(rows):.0%}",
        sum(row.source == "llm" for row in rows),
        sum(row.source == "template" for row in rows),
        f"{sum(row.attempts for row in rows) / len(rows):.2f}",
        "all there already" if run.notes_per_s is None else f"{run.notes_per_s:.2f}",
    )
