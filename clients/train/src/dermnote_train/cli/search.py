"""dermnote search: find notes for a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dermnote_contracts.retrieval import Exclude, Hit, Via
from dermnote_train.cli import screen
from dermnote_train.data.images import decode_fault, header_fault
from dermnote_train.errors import UserError
from dermnote_train.index import read_picture
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.settings import read_settings


def search(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="JPEG, PNG or WebP picture of a lesion.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Hits.")] = 5,
    via: Annotated[Via, typer.Option(help="notes: cross-modal; images: similar pictures; fused: both.")] = "fused",
    dataset: Annotated[str | None, typer.Option(help="Only items of this data set.")] = None,
    exclude_group: Annotated[list[str] | None, typer.Option(help="Never items of this patient or lesion.")] = None,
) -> None:
    """The notes that fit a picture best."""
    content = read_picture(image)
    fault = header_fault(image) or decode_fault(image)
    if fault:
        raise UserError(f"{image.parent}: {fault}")
    settings = read_settings()
    with RetrievalService(settings.retrieval_url, key=settings.retrieval_api_key) as service:
        service.require_ready()
        answer = service.search_image(
            content,
            k=k,
            via=via,
            where={"dataset": dataset} if dataset else None,
            exclude=Exclude(groups=exclude_group or []),
        )
    show_hits(f"{image.name}: found by {' and '.join(answer.routes)} in {answer.took_ms:.0f} ms", answer.hits)
    if not answer.hits:
        screen.say("nothing found: the index has no item that fits; fill it with: dermnote index FOLDER")


def show_hits(title: str, hits: Sequence[Hit]) -> None:
    """Hits with their notes."""
    screen.show_table(
        title,
        ("rank", "score", "class", "note", "item"),
        [(hit.rank, f"{hit.score:.3f}", str(hit.metadata.get("label", "")), hit.note, hit.id) for hit in hits],
    )
