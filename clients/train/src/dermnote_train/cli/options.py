"""Shared by several commands: options, service clients, and reading a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermnote_contracts.notes import Strategy
from dermnote_train.cli import output
from dermnote_train.data.labels import ClassSet
from dermnote_train.progress import Report
from dermnote_train.settings import Settings

if TYPE_CHECKING:
    from dermnote_train.data.records import LesionDataset
    from dermnote_train.evaluation.results import Evaluation
    from dermnote_train.remote.notegen import NoteService
    from dermnote_train.remote.retrieval import RetrievalService

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Data set: a CSV and images/ (see dermnote datasets list).")
]
Classes = Annotated[ClassSet, typer.Option(help="paper5: BEK NEV ACK BCC MEL; all: every diagnosis.")]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Labels CSV (columns source,image,class8,name,group); labels8.csv in or next to the folder by default."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most this many images, balanced over the classes.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Random seed.")]
Leaky = Annotated[
    bool,
    typer.Option(
        "--leaky-fields", help="Keep fields whose presence reveals the diagnosis (such as gender in PAD-UFES-20)."
    ),
]
StrategyOption = Annotated[Strategy, typer.Option(help="How the notes are written (see docs/notes.md).")]
Notes = Annotated[Path | None, typer.Option(help="Notes file; DERMNOTE_HOME/notes/NAME/notes.parquet by default.")]


def note_service() -> "NoteService":
    """A client of the note service that the settings name."""
    from dermnote_train.remote.notegen import NoteService

    settings = Settings()
    return NoteService(settings.notegen_url, key=settings.notegen_api_key)


def retrieval_service() -> "RetrievalService":
    """A client of the retrieval service that the settings name."""
    from dermnote_train.remote.retrieval import RetrievalService

    settings = Settings()
    return RetrievalService(settings.retrieval_url, key=settings.retrieval_api_key)


def notes_path(dataset: str) -> Path:
    """Default path of the Parquet file that `dermnote notes` writes for a data set."""
    return Settings().dermnote_home / "notes" / dataset / "notes.parquet"


def read_dataset(
    folder: Path,
    *,
    classes: ClassSet = "paper5",
    labels: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    leaky_fields: bool = False,
    progress: Report,
) -> "LesionDataset":
    """Load a data set and decode every image once, to report broken ones before any other work. Raises UserError."""
    from dermnote_train.data.adapters import load_dataset
    from dermnote_train.data.images import check_decodable

    dataset = load_dataset(folder, classes=classes, labels=labels, limit=limit, seed=seed, leaky_fields=leaky_fields)
    check_decodable(dataset.records, progress=progress)
    return dataset


def print_metrics(title: str, evaluation: "Evaluation") -> None:
    """Print the main metrics of an evaluation."""
    from dermnote_train.evaluation.tables import metric_rows

    output.print_table(
        title,
        ("metric", "value", "95 % interval", "chance"),
        [(row.name, row.value, row.interval, row.chance) for row in metric_rows(evaluation)],
    )
