"""dermnote findings: what is seen in each picture, measured from its pixels."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from dermnote_train.cli import options, screen
from dermnote_train.data.selection import balanced_part
from dermnote_train.findings.measures import COLOURS
from dermnote_train.findings.sheet import draw_sheet
from dermnote_train.findings.table import Measured, measure_dataset, write_findings
from dermnote_train.settings import read_settings

ON_SHEET = 36


def findings(
    folder: options.Folder,
    *,
    out: Annotated[Path | None, typer.Option(help="CSV to write; DERMNOTE_HOME/findings/NAME.csv by default.")] = None,
    sheet: Annotated[Path | None, typer.Option(help=f"PNG with {ON_SHEET} pictures and their outlines.")] = None,
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> None:
    """Measure asymmetry, border and colours of every lesion; dermnote notes --findings takes the file."""
    choice = options.DataChoice(folder, classes=classes, labels=labels, limit=limit, seed=seed)
    with screen.bars() as progress:
        dataset = options.read_dataset(choice, progress=progress)
        measured = measure_dataset(dataset.records, progress=progress)
    path = out or read_settings().dermnote_home / "findings" / f"{dataset.name}.csv"
    write_findings(path, measured)
    labels_of = {record.image_id: record.label for record in dataset.records}
    show_findings(measured, labels_of)
    screen.say(f"findings: {path}")
    if sheet is not None:
        draw_sheet(sheet, balanced_part(dataset.records, limit=ON_SHEET, seed=seed))
        screen.say(f"contact sheet: {sheet}")


def show_findings(measured: tuple[Measured, ...], labels: dict[str, str]) -> None:
    """How often each term was found, by class; and why nothing was where that is so."""
    classes = sorted(set(labels.values()))
    groups = {name: {image_id for image_id, label in labels.items() if label == name} for name in classes}
    terms = {"a lesion was found": [one.image_id for one in measured if one.measures is not None]}
    for term in ("symmetric", "asymmetric", "sharp", "mixed", "indistinct", *COLOURS):
        terms[term] = [one.image_id for one in measured if term in _said(one)]
    screen.show_table(
        "Findings, share of images",
        ("", "all", *classes),
        [
            (term, f"{len(shown) / len(measured):.0%}", *(_share(shown, groups[name]) for name in classes))
            for term, shown in terms.items()
        ],
    )
    reasons = Counter(one.why_not for one in measured if one.why_not)
    for reason, count in reasons.most_common():
        screen.say(f"no findings for {count} images: {reason}")


def _said(one: Measured) -> set[str]:
    said = one.findings
    return {term for term in (said.asymmetry, said.border, *(said.colours or ())) if term}


def _share(shown: list[str], group: set[str]) -> str:
    return f"{len(group.intersection(shown)) / len(group):.0%}"
