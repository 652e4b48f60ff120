"""dermnote findings: measure the visible findings of each image from its pixels."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermnote_train.cli import options, output
from dermnote_train.settings import Settings

if TYPE_CHECKING:
    from dermnote_train.findings.table import ImageFindings

ON_SHEET = 36
FOUND = "a lesion was found"


def findings(
    folder: options.Folder,
    *,
    out: Annotated[Path | None, typer.Option(help="CSV to write; DERMNOTE_HOME/findings/NAME.csv by default.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help=f"PNG to write: a contact sheet of {ON_SHEET} images with their outlines.")
    ] = None,
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> None:
    """Measure asymmetry, border and colours of every lesion, for dermnote notes --findings."""
    from dermnote_train.data.splits import balanced_part
    from dermnote_train.findings.table import draw_sheet, measure_dataset, write_findings

    with output.progress_bars() as progress:
        dataset = options.read_dataset(
            folder, classes=classes, labels=labels, limit=limit, seed=seed, progress=progress
        )
        measured = measure_dataset(dataset.records, progress=progress)
    path = out or Settings().dermnote_home / "findings" / f"{dataset.name}.csv"
    write_findings(path, measured)
    print_findings(measured, {record.image_id: record.label for record in dataset.records})
    output.print_line(f"findings: {path}")
    if sheet is not None:
        draw_sheet(sheet, balanced_part(dataset.records, limit=ON_SHEET, seed=seed))
        output.print_line(f"contact sheet: {sheet}")


def print_findings(measured: "tuple[ImageFindings, ...]", labels: dict[str, str]) -> None:
    """Print how often each term was found per class, and why images have no findings."""
    from dermnote_train.findings.measures import COLOURS

    shown = (FOUND, "symmetric", "asymmetric", "sharp", "mixed", "indistinct", *COLOURS)
    classes = sorted(set(labels.values()))
    terms = {one.image_id: _terms(one) for one in measured}
    groups = [list(terms), *([image_id for image_id in terms if labels[image_id] == name] for name in classes)]
    output.print_table(
        "Findings, share of images",
        ("", "all", *classes),
        [(term, *(f"{sum(term in terms[i] for i in group) / len(group):.0%}" for group in groups)) for term in shown],
    )
    reasons = Counter(one.why_not for one in measured if one.why_not)
    for reason, count in reasons.most_common():
        output.print_line(f"no findings for {count} images: {reason}")


def _terms(one: "ImageFindings") -> set[str | None]:
    found = one.findings
    measured = {FOUND} if one.measures is not None else set()
    return {*measured, found.asymmetry, found.border, *(found.colours or ())}
