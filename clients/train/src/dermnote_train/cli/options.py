"""Options that several commands share, and the reading of their data set with a progress bar."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dermnote_contracts.notes import Strategy
from dermnote_train.data.adapters import load_dataset
from dermnote_train.data.images import refuse_undecodable
from dermnote_train.data.labels import ClassSet
from dermnote_train.data.records import LesionDataset
from dermnote_train.progress import Report

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Data set: a CSV and images/ (see dermnote datasets list).")
]
Classes = Annotated[ClassSet, typer.Option(help="paper5: BEK NEV ACK BCC MEL; all: every diagnosis.")]
Labels = Annotated[
    Path | None,
    typer.Option(help="Labels file (source,image,class8,name,group); labels8.csv beside the data by default."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take this many images, balanced over the classes.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of every random choice.")]
Leaky = Annotated[
    bool,
    typer.Option("--leaky-fields", help="Keep fields that the data set fills by diagnosis (PAD-UFES-20's gender ...)."),
]
StrategyOption = Annotated[Strategy, typer.Option(help="How notes are written.")]


@dataclass(frozen=True)
class DataChoice:
    """A data set as a command line asks for it."""

    folder: Path
    classes: ClassSet = "paper5"
    labels: Path | None = None
    limit: int | None = None
    seed: int = 0
    leaky_fields: bool = False


def read_dataset(choice: DataChoice, *, progress: Report) -> LesionDataset:
    """The data set, every image of it decoded once, so that a broken one is told before any work. Raises UserError."""
    dataset = load_dataset(
        choice.folder,
        classes=choice.classes,
        labels=choice.labels,
        limit=choice.limit,
        seed=choice.seed,
        leaky_fields=choice.leaky_fields,
    )
    refuse_undecodable(dataset.records, progress=progress)
    return dataset
