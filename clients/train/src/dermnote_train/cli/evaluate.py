"""dermnote evaluate: what a run is worth on its held-out part, or on another data set."""

import json
from pathlib import Path
from typing import Annotated

import typer

from dermnote_train.cli import options, screen
from dermnote_train.errors import UserError
from dermnote_train.evaluation.evaluate import evaluate as evaluate_model
from dermnote_train.evaluation.tables import metric_rows, subgroup_rows
from dermnote_train.files import replacing
from dermnote_train.models.checkpoint import load_checkpoint
from dermnote_train.models.run_folder import read_run_data, read_run_split
from dermnote_train.notes.table import read_notes
from dermnote_train.settings import read_settings


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of dermnote train.")],
    folder: options.Folder,
    *,
    notes: Annotated[Path | None, typer.Option(help="notes.parquet; DERMNOTE_HOME/notes/NAME by default.")] = None,
    blinded: Annotated[
        Path | None, typer.Option(help="notes.parquet of dermnote notes --blinded: classify by note and picture too.")
    ] = None,
    labels: options.Labels = None,
    seed: options.Seed = 0,
) -> None:
    """Evaluate on the run's test part; on another data set, on every image of the run's classes."""
    settings = read_settings()
    data = read_run_data(run)
    with screen.bars() as progress:
        dataset = options.read_dataset(options.DataChoice(folder, data.class_set, labels, seed=seed), progress=progress)
        own = dataset.name == data.dataset
        split = read_run_split(run, dataset) if own else None
        records = split.test if split else tuple(r for r in dataset.records if r.label in data.classes)
        if not records:
            raise UserError(f"{folder}: no image of the run's classes {', '.join(data.classes)}; give other data")
        source = notes or settings.dermnote_home / "notes" / dataset.name / "notes.parquet"
        if notes is not None and not source.is_file():
            raise UserError(f"{source}: no such notes file; make one with: dermnote notes {folder}")
        texts = {row.image_id: row.text for row in read_notes(source)} if source.is_file() else None
        model = load_checkpoint(run, split=split)
        without_diagnosis = None if blinded is None else {row.image_id: row.text for row in read_notes(blinded)}
        found = evaluate_model(
            model, records=records, notes=texts, blinded=without_diagnosis, seed=seed, progress=progress
        )
    what = "held-out test part" if own else "another data set"
    screen.show_table(
        f"{dataset.name} ({what}): {found.n} images, {found.groups} groups, by picture alone where no note is named",
        ("figure", "value", "95 % interval", "chance"),
        [(row.name, row.value, row.interval, row.chance) for row in metric_rows(found)],
    )
    if found.subgroups:
        screen.show_table(
            "By subgroup: balanced accuracy",
            ("fact", "value", "images", "groups", "classes", "accuracy", "95 % interval", "chance"),
            [
                (
                    *(row.field, row.value, row.images, row.groups, row.classes),
                    *(row.accuracy.value, row.accuracy.interval, row.accuracy.chance),
                )
                for row in subgroup_rows(found)
            ],
        )
    path = run / f"evaluation-{dataset.name}.json"
    with replacing(path) as partial:
        partial.write_text(
            json.dumps({"dataset": dataset.name, "synthetic": dataset.synthetic} | found.as_json(), indent=2)
        )
    screen.say(f"figures: {path}")
