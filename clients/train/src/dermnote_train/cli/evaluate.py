"""dermnote evaluate: evaluate a run on its held-out part or on another data set."""

import json
from pathlib import Path
from typing import Annotated

import typer

from dermnote_train.cli import options, output
from dermnote_train.errors import UserError


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that dermnote train wrote.")],
    folder: options.Folder,
    *,
    notes: options.Notes = None,
    blinded: Annotated[
        Path | None,
        typer.Option(
            help="Blinded notes (dermnote notes --blinded); also classify by these notes, alone and with the images."
        ),
    ] = None,
    labels: options.Labels = None,
    seed: options.Seed = 0,
) -> None:
    """Evaluate on the run's test part, or on all images of another data set that belong to the run's classes."""
    from dermnote_train.evaluation.evaluate import evaluate as evaluate_model
    from dermnote_train.evaluation.tables import format_interval, format_number
    from dermnote_train.files import write_text
    from dermnote_train.models.checkpoint import load_checkpoint
    from dermnote_train.models.run_folder import read_run_data, read_run_split
    from dermnote_train.notes.table import read_notes

    data = read_run_data(run)
    with output.progress_bars() as progress:
        dataset = options.read_dataset(folder, classes=data.class_set, labels=labels, seed=seed, progress=progress)
        own = dataset.name == data.dataset
        split = read_run_split(run, dataset) if own else None
        records = split.test if split else tuple(r for r in dataset.records if r.label in data.classes)
        if not records:
            raise UserError(
                f"{folder}: no image belongs to the run's classes {', '.join(data.classes)}; give another data set"
            )
        source = notes or options.notes_path(dataset.name)
        if notes is not None and not source.is_file():
            raise UserError(f"{source}: file not found; create it with: dermnote notes {folder}")
        texts = {row.image_id: row.text for row in read_notes(source)} if source.is_file() else None
        model = load_checkpoint(run, split=split)
        blinded_texts = None if blinded is None else {row.image_id: row.text for row in read_notes(blinded)}
        result = evaluate_model(
            model, records=records, notes=texts, blinded=blinded_texts, seed=seed, progress=progress
        )
    part = "held-out test part" if own else "another data set"
    options.print_metrics(
        f"{dataset.name} ({part}): {result.n} images, {result.groups} groups; input: image alone unless stated",
        result,
    )
    if result.subgroups:
        output.print_table(
            "By subgroup: balanced accuracy",
            ("fact", "value", "images", "groups", "classes", "accuracy", "95 % interval", "chance"),
            [
                (
                    *(row.field.replace("_", " "), row.value, row.n, row.groups, row.classes),
                    format_number(row.balanced_accuracy.value),
                    *(format_interval(row.balanced_accuracy), format_number(row.chance)),
                )
                for row in result.subgroups
            ],
        )
    path = run / f"evaluation-{dataset.name}.json"
    metrics = {"dataset": dataset.name, "synthetic": dataset.synthetic} | result.as_json()
    write_text(path, json.dumps(metrics, indent=2))
    output.print_line(f"metrics: {path}")
