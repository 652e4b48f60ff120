"""dermnote index and dermnote search: push a data set to the retrieval service, and find notes for an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermnote_contracts.retrieval import Exclude, Hit, Via
from dermnote_train.cli import options, output
from dermnote_train.errors import UserError

if TYPE_CHECKING:
    from dermnote_train.index import IndexRun


def index(
    folder: options.Folder,
    *,
    notes: options.Notes = None,
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> None:
    """Store images, notes, metadata and groups in the index. Run the command again to resume an interrupted push."""
    from dermnote_train.index import IndexInterrupted, push
    from dermnote_train.notes.table import read_notes

    with options.retrieval_service() as service, output.progress_bars() as progress:
        service.require_ready()
        dataset = options.read_dataset(
            folder, classes=classes, labels=labels, limit=limit, seed=seed, progress=progress
        )
        texts = {row.image_id: row.text for row in read_notes(notes or options.notes_path(dataset.name))}
        try:
            run = push(service, dataset, records=dataset.records, notes=texts, progress=progress)
        except IndexInterrupted as error:
            print_index(error.run)
            raise
        info = service.index_info()
    print_index(run)
    output.print_line(f"the index now holds {info.items} items, encoder {info.model}")
    if run.failed:
        raise typer.Exit(1)


def print_index(run: "IndexRun") -> None:
    """Print how many items were created, updated, unchanged or failed."""
    total = run.stored + len(run.failed)
    output.print_table(
        "Index",
        ("items", "created", "updated", "unchanged", "failed", "items/s"),
        [(total, run.created, run.updated, run.unchanged, len(run.failed), f"{total / run.seconds:.1f}")],
    )
    for item, reason in list(run.failed.items())[:5]:
        output.print_line(f"failed: {item}: {reason}")


def search(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="JPEG, PNG or WebP image of a lesion.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of hits.")] = 5,
    via: Annotated[Via, typer.Option(help="notes: by matching note; images: by similar image; fused: both.")] = "fused",
    dataset: Annotated[str | None, typer.Option(help="Search only the items of this data set.")] = None,
    exclude_group: Annotated[
        list[str] | None, typer.Option(help="Exclude the items of this patient or lesion; may be repeated.")
    ] = None,
) -> None:
    """Find the notes that match an image best."""
    from dermnote_train.data.images import decode_fault, header_fault
    from dermnote_train.index import read_image

    content = read_image(image)
    if fault := header_fault(image) or decode_fault(image):
        raise UserError(f"{image.parent}: {fault}")
    with options.retrieval_service() as service:
        service.require_ready()
        response = service.search_image(
            content,
            k=k,
            via=via,
            where={"dataset": dataset} if dataset else None,
            exclude=Exclude(groups=exclude_group or []),
        )
    print_hits(f"{image.name}: found by {' and '.join(response.routes)} in {response.took_ms:.0f} ms", response.hits)
    if not response.hits:
        output.print_line("nothing found: no item of the index matches; add items with: dermnote index FOLDER")


def print_hits(title: str, hits: Sequence[Hit]) -> None:
    """Print search hits with their notes."""
    output.print_table(
        title,
        ("rank", "score", "class", "note", "item"),
        [(hit.rank, f"{hit.score:.3f}", str(hit.metadata.get("label", "")), hit.note, hit.id) for hit in hits],
    )
