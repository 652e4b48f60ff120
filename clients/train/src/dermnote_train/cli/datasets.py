"""dermnote datasets: list, fetch, inspect, check, leakage, draw, split."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dermnote_contracts.metadata import walk
from dermnote_train.cli import options, screen
from dermnote_train.data.adapters import Reading, dataset_of, load_dataset, read_folder
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.images import refuse_undecodable, undecodable
from dermnote_train.data.isic import fetch
from dermnote_train.data.labels import PAPER5
from dermnote_train.data.layouts import ISIC_2019, LAYOUTS
from dermnote_train.data.leaks import find_leaks, write_leaks
from dermnote_train.data.mapping import FILE
from dermnote_train.data.splits import read_split, split_dataset, write_split
from dermnote_train.data.twins import Twins

app = typer.Typer(no_args_is_help=True)
SHOWN = 20


@app.command("list")
def list_layouts() -> None:
    """The data sets that can be read, and how they are told apart."""
    screen.show_table(
        "Data sets that dermnote reads",
        ("name", "what", "recognised by", "groups", "licence"),
        [
            *(
                (
                    layout.name,
                    layout.title,
                    "two CSVs, *Metadata and *GroundTruth" if layout is ISIC_2019 else _columns(layout.recognised_by),
                    " or ".join(layout.group) or "none",
                    layout.licence,
                )
                for layout in LAYOUTS
            ),
            (
                "(its own name)",
                "any other CSV + images",
                f"{FILE} beside it (docs/data.md)",
                "as it says",
                "as it says",
            ),
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


def _columns(names: Sequence[str]) -> str:
    return f"column{'s' if len(names) > 1 else ''} {', '.join(names)}"


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
    show_presences(reading)
    for why, count in reading.passed_over.items():
        screen.say(f"passed over: {count} rows, {why}")
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


def show_presences(reading: Reading) -> None:
    """What being filled, and not being filled, says of the class."""
    classes = sorted({record.label for record in reading.records})
    if reading.presences:
        screen.show_table(
            "Fields that are filled in some rows only: share filled, by class",
            ("field", "all", *classes, "Cramer's V", "tells the class"),
            [
                (
                    one.path,
                    *(f"{share:.0%}" for share in (one.filled, *(one.by_class[name] for name in classes))),
                    f"{one.cramers_v:.2f}",
                    "YES" if one.tells else "no",
                )
                for one in sorted(reading.presences, key=lambda one: -one.cramers_v)
            ],
        )
    if reading.left_out:
        screen.say(
            f"left out, since being filled tells the class (--leaky-fields keeps them): {', '.join(reading.left_out)}"
        )


@app.command("fetch")
def fetch_images(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where images and metadata.csv go.")],
    *,
    collection: Annotated[list[int] | None, typer.Option(help="Id of `isic collection list`; may be repeated.")] = None,
    search: Annotated[str | None, typer.Option(help='As isic-cli takes it: diagnosis_3:"Nevus" AND sex:male')] = None,
    limit: Annotated[int, typer.Option(min=0, help="Images at most; 0 for all.")] = 0,
) -> None:
    """Download images with their metadata from the ISIC Archive, through its own tool (pip install isic-cli)."""
    fetch(folder, collections=collection or (), search=search, limit=limit)
    screen.say(f"in {folder}; look at it with: dermnote datasets inspect {folder}")


@app.command()
def leakage(
    folder: options.Folder,
    *,
    against: Annotated[Path | None, typer.Option(help="Another data set, that is to be tested on.")] = None,
    split_file: Annotated[Path | None, typer.Option("--split", help="CSV of dermnote datasets split.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON to write: everything that was found.")] = None,
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
) -> None:
    """What would let a model cheat: facts that tell the class by being there, and pictures that are there twice.

    Exit code 1 if a group or a picture is on both sides of the split, or in both data sets.
    """
    reading = read_folder(folder, labels=labels, leaky_fields=True)
    dataset = dataset_of(reading, classes=classes)
    other = None if against is None else load_dataset(against, classes=classes, leaky_fields=True)
    parts = None if split_file is None else read_split(split_file, dataset)
    with screen.bars() as progress:
        refuse_undecodable((*dataset.records, *(other.records if other else ())), progress=progress)
        report = find_leaks(reading.presences, dataset.records, split=parts, other=other, progress=progress)
    show_presences(reading)
    show_twins("Pictures that are there twice", report.twins)
    if parts is not None:
        screen.say(f"groups in more than one part of {split_file}: {', '.join(report.groups_across) or 'none'}")
        show_twins(f"of these, in more than one part of {split_file}", report.twins_across)
    if other is not None:
        show_twins(f"Pictures of {dataset.name} that are in {other.name} as well", report.twins_with_other)
    if out is not None:
        write_leaks(out, report)
        screen.say(f"report: {out}")
    if report.crossed:
        raise typer.Exit(1)


def show_twins(title: str, found: Sequence[Twins]) -> None:
    """Pairs of pictures; the first twenty."""
    other_group = sum(pair.first.group != pair.second.group for pair in found)
    other_class = sum(pair.first.label != pair.second.label for pair in found)
    screen.say(f"{title}: {len(found)} pairs, {other_group} in different groups, {other_class} of different classes")
    if found:
        screen.show_table(
            "The first of them" if len(found) > SHOWN else "They are",
            ("image", "class", "image", "class", "same group", "correlation", "turned"),
            [
                (
                    pair.first.image_id,
                    pair.first.label,
                    pair.second.image_id,
                    pair.second.label,
                    "yes" if pair.first.group == pair.second.group else "NO",
                    f"{pair.correlation:.3f}",
                    "yes" if pair.turned else "no",
                )
                for pair in found[:SHOWN]
            ],
        )


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
