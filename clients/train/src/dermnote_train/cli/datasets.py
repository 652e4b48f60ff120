"""dermnote datasets: list, fetch, inspect, check, leakage, draw and split."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermnote_train.cli import options, output
from dermnote_train.errors import UserError

if TYPE_CHECKING:
    from dermnote_train.data.adapters import Reading
    from dermnote_train.data.duplicates import DuplicatePair

app = typer.Typer(no_args_is_help=True)
SHOWN = 20


@app.command("list")
def list_layouts() -> None:
    """List the supported data sets and how they are recognised."""
    from dermnote_train.data.layouts import COLUMNS_FILE, ISIC_2019, LAYOUTS

    rows = []
    for layout in LAYOUTS:
        columns = f"column {' and '.join(layout.recognised_by)}"
        recognised_by = "two CSVs, *Metadata and *GroundTruth" if layout is ISIC_2019 else columns
        groups = " or ".join(layout.group) or "none"
        rows.append((layout.name, layout.title, recognised_by, groups, layout.licence))
    mapped, mapping = f"{COLUMNS_FILE} next to it (docs/data.md)", f"see {COLUMNS_FILE}"
    plain_groups = "group, patient_id or lesion_id"
    rows += [
        ("(any)", "any other CSV + images", mapped, mapping, mapping),
        ("(folder name)", "plain CSV + images/", "columns image, diagnosis", plain_groups, "its owner's"),
        ("drawn", "procedurally drawn lesions, SYNTHETIC", "dermnote datasets draw", "patient_id", "CC0-1.0"),
    ]
    output.print_table("Supported data sets", ("name", "description", "recognised by", "groups", "licence"), rows)


@app.command()
def inspect(folder: options.Folder, labels: options.Labels = None, leaky_fields: options.Leaky = False) -> None:
    """Show the classes, groups and fields of a data set, and how complete the fields are."""
    from dermnote_contracts.metadata import walk
    from dermnote_train.data.adapters import read_folder
    from dermnote_train.data.labels import PAPER5

    reading = read_folder(folder, labels=labels, leaky_fields=leaky_fields)
    classes = Counter(record.label for record in reading.records)
    groups = {name: len({r.group for r in reading.records if r.label == name}) for name in classes}
    output.print_table(
        f"{reading.name}: {reading.title}, {reading.licence}{', SYNTHETIC' if reading.synthetic else ''}",
        ("class", "images", "groups", "in paper5"),
        [(name, count, groups[name], "yes" if name in PAPER5 else "no") for name, count in classes.most_common()],
    )
    filled = Counter(path for record in reading.records for path, _ in walk(record.metadata.given()))
    output.print_table(
        "Fields",
        ("field", "filled"),
        [(path, f"{count / len(reading.records):.0%}") for path, count in sorted(filled.items())],
    )
    print_presences(reading)
    for reason, count in reading.skipped.items():
        output.print_line(f"skipped: {count} rows, {reason}")
    output.print_line(f"groups by: {reading.group_column or 'image (no column group, patient_id or lesion_id)'}")
    output.print_line(f"labels file: {reading.labels or 'none'}")
    output.print_line(f"unused columns: {', '.join(reading.unused_columns) or 'none'}")
    if reading.faults:
        output.print_line(f"problems: {len(reading.faults)}; list them with: dermnote datasets check {folder}")


@app.command()
def check(folder: options.Folder, labels: options.Labels = None) -> None:
    """Report every problem of a data set, row by row; exit code 1 if there is any."""
    from dermnote_train.data.adapters import read_folder
    from dermnote_train.data.images import undecodable

    reading = read_folder(folder, labels=labels)
    with output.progress_bars() as progress:
        broken = undecodable(reading.records, progress=progress)
    for fault in reading.faults:
        output.print_line(f"{reading.table.name} {fault}")
    for record, reason in broken:
        output.print_line(f"{record.image_path}: {reason}")
    problems = len(reading.faults) + len(broken)
    usable = len(reading.records) - len(broken)
    output.print_line(f"{reading.name}: {usable} usable images, {problems} problems (the header is row 1)")
    if problems:
        raise typer.Exit(1)


def print_presences(reading: "Reading") -> None:
    """Print which fields are partly filled, and whether their presence reveals the class."""
    classes = sorted({record.label for record in reading.records})
    if reading.presences:
        output.print_table(
            "Fields that are filled in some rows only: share filled, by class",
            ("field", "all", *classes, "Cramer's V", "reveals class"),
            [
                (
                    one.path,
                    *(f"{share:.0%}" for share in (one.filled, *(one.by_class[name] for name in classes))),
                    f"{one.cramers_v:.2f}",
                    "YES" if one.reveals_class else "no",
                )
                for one in sorted(reading.presences, key=lambda one: -one.cramers_v)
            ],
        )
    if reading.left_out:
        output.print_line(
            f"dropped fields, whose presence reveals the class (--leaky-fields keeps them): "
            f"{', '.join(reading.left_out)}"
        )


@app.command()
def fetch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for images and metadata.csv.")],
    *,
    collection: Annotated[
        list[int] | None, typer.Option(help="Collection id (see isic collection list); may be repeated.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(help='Query in the syntax of isic-cli, such as: diagnosis_3:"Nevus" AND sex:male')
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of images; 0 for all.")] = 0,
) -> None:
    """Download images and metadata from the ISIC Archive with its own tool, isic-cli (pip install isic-cli)."""
    tool = shutil.which("isic")
    if tool is None:
        raise UserError("the command isic is not installed; install it with: pip install isic-cli")
    command = [tool, "image", "download", str(folder), "--limit", str(limit)]
    if collection:
        command += ["--collections", ",".join(map(str, collection))]
    if search:
        command += ["--search", search]
    result = subprocess.run(command, check=False)  # noqa: S603 - a list, no shell
    if result.returncode != 0:
        raise UserError(f"isic-cli failed with exit code {result.returncode}; see its output above")
    if not (folder / "metadata.csv").is_file():
        raise UserError(f"{folder}: isic-cli wrote no metadata.csv; check that the search matches any images")
    output.print_line(f"downloaded to {folder}; inspect it with: dermnote datasets inspect {folder}")


@app.command()
def leakage(
    folder: options.Folder,
    *,
    against: Annotated[
        Path | None, typer.Option(help="Another data set, to test on; report images that are in both.")
    ] = None,
    split_file: Annotated[Path | None, typer.Option("--split", help="CSV that dermnote datasets split wrote.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the full report.")] = None,
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
) -> None:
    """Find what lets a model cheat: facts whose presence reveals the class, and duplicate images.

    Exit code 1 if a group or an image is in two parts of the split, or if an image is in both data sets.
    """
    from dermnote_train.data.adapters import dataset_of, load_dataset, read_folder
    from dermnote_train.data.images import check_decodable
    from dermnote_train.data.leakage import find_leakage, write_leakage
    from dermnote_train.data.splits import read_split

    reading = read_folder(folder, labels=labels, leaky_fields=True)
    dataset = dataset_of(reading, classes=classes)
    other = None if against is None else load_dataset(against, classes=classes, leaky_fields=True)
    parts = None if split_file is None else read_split(split_file, dataset)
    with output.progress_bars() as progress:
        check_decodable((*dataset.records, *(other.records if other else ())), progress=progress)
        report = find_leakage(reading.presences, dataset.records, split=parts, other=other, progress=progress)
    print_presences(reading)
    print_duplicates("Duplicate images", report.duplicates)
    if parts is not None:
        output.print_line(f"groups in more than one part of {split_file}: {', '.join(report.groups_across) or 'none'}")
        print_duplicates(f"Duplicate images in more than one part of {split_file}", report.duplicates_across)
    if other is not None:
        print_duplicates(f"Images of {dataset.name} that are also in {other.name}", report.duplicates_with_other)
    if out is not None:
        write_leakage(out, report)
        output.print_line(f"report: {out}")
    if report.crosses:
        raise typer.Exit(1)


def print_duplicates(title: str, pairs: Sequence["DuplicatePair"]) -> None:
    """Print pairs of images; at most twenty."""
    other_group = sum(pair.first.group != pair.second.group for pair in pairs)
    other_class = sum(pair.first.label != pair.second.label for pair in pairs)
    output.print_line(
        f"{title}: {len(pairs)} pairs, {other_group} in different groups, {other_class} of different classes"
    )
    if pairs:
        output.print_table(
            f"The first {SHOWN} pairs" if len(pairs) > SHOWN else "Pairs",
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
                for pair in pairs[:SHOWN]
            ],
        )


@app.command()
def draw(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the drawn data set.")],
    count: Annotated[int, typer.Option(min=15, max=100_000, help="Number of images.")] = 160,
    seed: options.Seed = 0,
) -> None:
    """Draw a small synthetic data set: 5 classes, plausible metadata, labelled SYNTHETIC."""
    from dermnote_train.data.draw import draw_dataset

    with output.progress_bars() as progress:
        draw_dataset(folder, count=count, seed=seed, progress=progress)
    output.print_line(f"{count} drawn lesions (SYNTHETIC) in {folder}")


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
    """Split a data set 60/20/20 by patient or lesion, with every class in every part."""
    from dermnote_train.data.splits import PART_NAMES, split_dataset, write_split

    with output.progress_bars() as progress:
        dataset = options.read_dataset(
            folder, classes=classes, labels=labels, limit=limit, seed=seed, progress=progress
        )
    parts = split_dataset(dataset, seed=seed)
    write_split(out, parts)
    rows = []
    for name in PART_NAMES:
        records = getattr(parts, name)
        counts = Counter(record.label for record in records)
        groups = {record.group for record in records}
        rows.append((name, len(records), len(groups), *(counts[label] for label in dataset.classes)))
    title = f"{dataset.name}, seed {seed}, written to {out}"
    output.print_table(title, ("part", "images", "groups", *dataset.classes), rows)
