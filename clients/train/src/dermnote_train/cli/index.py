"""dermnote index: push a data set with its notes to the retrieval service."""

from pathlib import Path
from typing import Annotated

import typer

from dermnote_train.cli import options, screen
from dermnote_train.index import IndexRun, IndexStopped, push
from dermnote_train.notes.table import read_notes
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.settings import read_settings


def index(
    folder: options.Folder,
    *,
    notes: Annotated[Path | None, typer.Option(help="notes.parquet; DERMNOTE_HOME/notes/NAME by default.")] = None,
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> None:
    """Store images, notes, metadata and groups, 64 a request. Run again, it goes on where it stopped."""
    settings = read_settings()
    with RetrievalService(settings.retrieval_url, key=settings.retrieval_api_key) as service, screen.bars() as progress:
        service.require_ready()
        choice = options.DataChoice(folder, classes, labels, limit, seed)
        dataset = options.read_dataset(choice, progress=progress)
        rows = read_notes(notes or settings.dermnote_home / "notes" / dataset.name / "notes.parquet")
        texts = {row.image_id: row.text for row in rows}
        try:
            run = push(service, dataset, records=dataset.records, notes=texts, progress=progress)
        except IndexStopped as stopped:
            show_index(stopped.run)
            raise
        info = service.index_info()
    show_index(run)
    screen.say(f"the index now holds {info.items} items, encoder {info.model}")
    if run.failed:
        raise typer.Exit(1)


def show_index(run: IndexRun) -> None:
    """What became of the items."""
    total = run.stored + len(run.failed)
    screen.show_table(
        "Index",
        ("items", "created", "updated", "unchanged", "failed", "items/s"),
        [(total, run.created, run.updated, run.unchanged, len(run.failed), f"{total / run.seconds:.1f}")],
    )
    for item, reason in list(run.failed.items())[:5]:
        screen.say(f"failed: {item}: {reason}")
