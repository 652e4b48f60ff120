"""dermnote datasets: list, inspect, check, draw, split."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from dermnote_contracts.metadata import walk
from dermnote_train.cli import options, screen
from dermnote_train.data.adapters import Reading, read_folder
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.labels import PAPER5
from dermnote_train.data.layouts import HAM10000, PAD_UFES_20
from dermnote_train.data.pictures import undecodable
from dermnote_train.data.splits import split_dataset, write_split

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_layouts() -> None:
    """The data sets that can be read, and how they are told apart."""
    screen.show_table(
        "Data sets that dermnote reads",
        ("name", "what", "recognised by", "groups", "licence"),
        [
            (HAM10000.name, HAM10000.title, "column dx", "lesion_id", HAM10000.licence),
            (PAD_UFES_20.name, PAD_UFES_20.title, "column diagnostic", "patient_id", PAD_UFES_20.licence),
            (
                "(folder name)",
                "plain CSV + images/",
                "columns image, diagnosis",
                "group, patient_id or lesion_id",
                "its owner's",
            ),
            ("drawn", "procedurally drawn lesions, SYNTHETIC", "dermnote datasets draw", "patient_id", "CC0-1.0"),
        ],
    )


@app.command()
def inspect(folder: options.Folder, labels: options.Labels = None, leaky_fields: options.Leaky = False) -> None:
    """What a folder holds: classes, groups, fields and how full they are."""
    reading = read_folder(folder, labels=labels, leaky_fields=leaky_fields)
    classes = Counter(record.label for record in reading.records)
    groups = {name: len({r.group for r in reading.records if r.label == name}) for name in classes}
    screen.show_table(
        f"{reading.name}: {reading.title}, {reading.licence}{', SYNTHETIC' if reading.synthetic else ''}",
        ("class", "images", "groups", "in paper5"),
        [(name, count, groups[name], "yes" if name in PAPER5 else "no") for name, count in classes.most_common()],
    )
    screen.show_table("Fields", ("field", "filled"), _filled(reading))
    screen.say(f"groups by: {reading.group_column or 'image (no column group, patient_id or lesion_id)'}")
    screen.say(f"labels file: {reading.labels or 'none'}")
    screen.say(f"columns not used: {', '.join(reading.unused_columns) or 'none'}")
    if reading.faults:
        screen.say(f"problems: {len(reading.faults)}; list them: dermnote datasets check {folder}")


def _filled(reading: Reading) -> list[tuple[str, str]]:
    filled = Counter(path for record in reading.records for path, _ in walk(record.metadata.given()))
    return [(path, f"{count / len(reading.records):.0%}") for path, count in sorted(filled.items())]


@app.command()
def check(folder: options.Folder, labels: options.Labels = None) -> None:
    """Every problem of a data set, row by row; exit code 1 if there is one."""
    reading = read_folder(folder, labels=labels)
    with screen.bars() as progress:
        broken = undecodable(reading.records, progress=progress)
    for fault in reading.faults:
        screen.say(f"{reading.table.name} {fault}")
    for record, reason in broken:
        screen.say(f"{record.image_path}: {reason}")
    problems = len(reading.faults) + len(broken)
    screen.say(
        f"{reading.name}: {len(reading.records) - len(broken)} usable images, {problems} problems (header = row 1)"
    )
    if problems:
        raise typer.Exit(1)


@app.command()
def draw(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the drawn data set.")],
    count: Annotated[int, typer.Option(min=15, max=100_000, help="Images to draw.")] = 160,
    seed: options.Seed = 0,
) -> None:
    """Draw a small synthetic data set: 5 classes, plausible metadata, labelled SYNTHETIC."""
    with screen.bars() as progress:
        draw_dataset(folder, count=count, seed=seed, progress=progress)
    screen.say(f"{count} drawn lesions (SYNTHETIC) in {folder}")


@app.command()
def split(
    folder: options.Folder,
    *,
    out: Annotated[Path, typer.Option(help="CSV to write.")] = Path("split.csv"),
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> None:
    """Split by patient or lesion, 60/20/20, every class in every part."""
    choice = options.DataChoice(folder, classes=classes, labels=labels, limit=limit, seed=seed)
    with screen.bars() as progress:
        dataset = options.read_dataset(choice, progress=progress)
    made = split_dataset(dataset, seed=seed)
    write_split(out, made)
    parts = {"train": made.train, "val": made.val, "test": made.test}
    screen.show_table(
        f"{dataset.name}, seed {seed}, written to {out}",
        ("part", "images", "groups", *dataset.classes),
        [
            (name, len(part), len({r.group for r in part}), *(sum(r.label == c for r in part) for c in dataset.classes))
            for name, part in parts.items()
        ],
    )
