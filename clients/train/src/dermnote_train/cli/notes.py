"""dermnote notes: generate the notes of a data set with the note service."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermnote_contracts.notes import ALL_TOPICS
from dermnote_train.cli import options, output

if TYPE_CHECKING:
    from dermnote_train.notes.request import NotesRun
    from dermnote_train.notes.table import NoteRow


def notes(
    folder: options.Folder,
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for notes.parquet; DERMNOTE_HOME/notes/NAME (NAME-blinded if blinded) by default."),
    ] = None,
    strategy: options.StrategyOption = "G",
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    leaky_fields: options.Leaky = False,
    findings: Annotated[
        Path | None, typer.Option(help="CSV that dermnote findings wrote; its findings become facts of the notes.")
    ] = None,
    blinded: Annotated[
        bool,
        typer.Option("--blinded", help="Write notes without the diagnosis, as input for a classifier."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=1000, help="Notes per request.")] = 64,
    open_batches: Annotated[int, typer.Option(min=1, max=64, help="Batches in flight at the same time.")] = 4,
) -> None:
    """Write a note for every image to notes.parquet. Run the command again to resume an interrupted run."""
    from dermnote_train.notes.blinding import BLINDED
    from dermnote_train.notes.request import NotesPlan, write_dataset_notes

    plan = NotesPlan(
        strategy=strategy,
        include=BLINDED if blinded else ALL_TOPICS,
        seed=seed,
        batch_size=batch_size,
        open_batches=open_batches,
    )
    with options.note_service() as service, output.progress_bars() as progress:
        service.require_ready()
        dataset = options.read_dataset(
            folder,
            classes=classes,
            labels=labels,
            limit=limit,
            seed=seed,
            leaky_fields=leaky_fields,
            progress=progress,
        )
        if findings is not None:
            from dermnote_train.findings.table import with_findings

            dataset = replace(dataset, records=with_findings(dataset.records, findings))
        out = out or options.notes_path(dataset.name + ("-blinded" if blinded else "")).parent
        run = write_dataset_notes(service, dataset, plan=plan, out=out, progress=progress)
    print_notes(run)
    output.print_line(f"notes: {run.path}")
    if run.failed:
        raise typer.Exit(1)


def print_notes(run: "NotesRun") -> None:
    """Print the statistics of a notes run per strategy, and its failures."""
    output.print_table(
        "Notes",
        ("strategy", "notes", "faithful at first try", "faithful", "by model", "by template", "attempts", "notes/s"),
        [
            _statistics([row for row in run.rows if row.strategy == name], name, run)
            for name in sorted({row.strategy for row in run.rows})
        ],
    )
    for image_id, reason in list(run.failed.items())[:5]:
        output.print_line(f"failed: {image_id}: {reason}")
    if run.failed:
        output.print_line(f"{len(run.failed)} notes failed; run the same command again to retry them")


def _statistics(rows: "list[NoteRow]", strategy: str, run: "NotesRun") -> tuple[object, ...]:
    return (
        strategy,
        len(rows),
        f"{sum(row.faithful_at_first for row in rows) / len(rows):.0%}",
        f"{sum(row.faithful for row in rows) / len(rows):.0%}",
        sum(row.source == "llm" for row in rows),
        sum(row.source == "template" for row in rows),
        f"{sum(row.attempts for row in rows) / len(rows):.2f}",
        "all reused" if run.notes_per_s is None else f"{run.notes_per_s:.2f}",
    )
