"""Items: put, get, delete, list, thumbnails, and bulk loads."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from dermnote_contracts.problems import NotFound, UnknownItem, UnsupportedMedia, parse_json
from dermnote_contracts.retrieval import Item, ItemId, ItemPage
from dermnote_imaging.stored import THUMBNAIL_TYPE
from dermnote_retrieval.api.forms import BodyStream, ServiceDep, media_type, read_form
from dermnote_retrieval.ingest.bulk import read_ndjson, read_tar, until_shutdown
from dermnote_retrieval.ingest.records import Record, RecordFields, make_record
from dermnote_retrieval.ingest.writer import RejectedRecord
from dermnote_retrieval.query.executor import image_link
from dermnote_retrieval.runtime.shutdown import Shutdown
from dermnote_retrieval.service import Service
from dermnote_retrieval.store.database import translate_full_disk
from dermnote_retrieval.store.items import ROUTES, ListedItem

router = APIRouter(tags=["items"])
READERS = {"application/x-tar": read_tar, "application/x-ndjson": read_ndjson}
SPOOL_BYTES = 1_000_000
BLOCK_BYTES = 65_536
# How long to keep reading from a client that is still sending when the outcomes are known.
LINGER_S = 5.0
FIELDS = tuple(name for name in RecordFields.model_fields if name != "id")

ITEM_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"},
                        "note": {"type": "string"},
                        "metadata": {"type": "string", "description": "JSON object"},
                        "group": {"type": "string", "description": "patient or lesion"},
                        "image_vector": {"type": "string", "description": "JSON list, or base64 of float32"},
                        "note_vector": {"type": "string", "description": "JSON list, or base64 of float32"},
                        "model": {"type": "string", "description": "model_id of the model that computed the vectors"},
                    },
                }
            }
        },
    }
}
BULK_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {name: {"schema": {"type": "string", "format": "binary"}} for name in READERS},
    }
}
BULK_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One BulkOutcome per line",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}


@router.put("/items/{item_id}", responses={201: {"model": Item}}, openapi_extra=ITEM_FORM)
async def put_item(item_id: ItemId, request: Request, response: Response, service: ServiceDep) -> Item:
    """Store an item; an existing one with this id is replaced as a whole. 201 if it is new, else 200."""
    async with read_form(request, known=FIELDS, service=service) as form:
        fields: dict[str, Any] = {**form.fields, "id": item_id}
        if "metadata" in fields:
            fields["metadata"] = parse_json(fields["metadata"], at="metadata")
        for name in ("image_vector", "note_vector"):
            if fields.get(name, "").lstrip().startswith("["):
                fields[name] = parse_json(fields[name], at=name)

        def work() -> tuple[Record, bool]:
            record = make_record(fields, image=form.image, decoder=service.decoder)
            return record, service.writer.put(record)

        record, created = await service.workers.run(work)
    response.status_code = 201 if created else 200
    return _of_record(record)


@router.post("/items/bulk", openapi_extra=BULK_BODY, response_class=Response, responses=BULK_ANSWER)
async def load_items(request: Request, service: ServiceDep) -> Response:
    """Store many items from a WebDataset tar or from NDJSON; answers one BulkOutcome per line, in the records' order.

    A load can be repeated: items that are already stored are `unchanged`. When the service shuts down, the load ends
    with an outcome of code `stopping`: that record and the following ones were not stored.
    """
    kind = media_type(request)
    if kind not in READERS:
        raise UnsupportedMedia(f"send {' or '.join(READERS)}")
    shutdown: Shutdown = request.app.state.shutdown
    stream = BodyStream(request, shutdown=shutdown)
    records = until_shutdown(READERS[kind](stream, decoder=service.decoder), shutdown)
    try:
        answer = await service.workers.run_bulk(lambda: _load(records, service))
    finally:
        await stream.discard(max_bytes=service.settings.max_upload_bytes, for_s=LINGER_S)
    blocks = iter(lambda: answer.read(BLOCK_BYTES), b"")
    return StreamingResponse(blocks, media_type="application/x-ndjson", background=BackgroundTask(answer.close))


def _load(records: Iterator[Record | RejectedRecord], service: Service) -> IO[bytes]:
    """Store the records; the outcomes go to a file, so that a client can send everything before it reads."""
    outcomes: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - closed after sending
    try:
        with translate_full_disk(
            "no space for the outcomes; when the load is sent again, stored items are reported as unchanged",
            at=Path(tempfile.gettempdir()),
        ):
            for outcome in service.writer.load(records, chunk=service.settings.bulk_chunk_items):
                outcomes.write(outcome.model_dump_json(exclude_none=True).encode() + b"\n")
            outcomes.seek(0)
    except BaseException:
        with suppress(OSError):  # the buffered outcomes cannot be written either
            outcomes.close()
        raise
    return outcomes


@router.get("/items")
async def list_items(
    service: ServiceDep,
    cursor: ItemId | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ItemPage:
    """A page of items in the order of their ids; `cursor` is the previous page's `next_cursor`."""
    items = await service.workers.run(lambda: service.items.page(after=cursor or "", limit=limit + 1))
    next_cursor = items[limit - 1].item.id if len(items) > limit else None
    return ItemPage(items=[_of_stored(item) for item in items[:limit]], next_cursor=next_cursor)


@router.get("/items/{item_id}")
async def get_item(item_id: ItemId, service: ServiceDep) -> Item:
    """An item without its vectors."""
    item = await service.workers.run(lambda: service.items.listed(item_id))
    if item is None:
        raise UnknownItem()
    return _of_stored(item)


@router.delete("/items/{item_id}", status_code=204)
async def delete_item(item_id: ItemId, service: ServiceDep) -> None:
    """Erase an item, its image and its vectors."""
    await service.workers.run(lambda: service.writer.delete(item_id))


@router.get("/items/{item_id}/image", response_class=Response, responses={200: {"content": {THUMBNAIL_TYPE: {}}}})
async def get_image(item_id: ItemId, service: ServiceDep) -> Response:
    """The item's thumbnail, at most 160 pixels wide and high."""

    def read() -> bytes:
        if service.items.get(item_id) is None:
            raise UnknownItem()
        thumbnail = service.items.thumbnail(item_id)
        if thumbnail is None:
            raise NotFound("the item has no image")
        return thumbnail

    headers = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(await service.workers.run(read), media_type=THUMBNAIL_TYPE, headers=headers)


def _of_stored(listed: ListedItem) -> Item:
    item = listed.item
    return Item(
        id=item.id,
        note=item.note,
        metadata=item.metadata,
        group=item.group,
        image=image_link(item.id) if item.has_image else None,
        routes=listed.routes,
    )


def _of_record(record: Record) -> Item:
    routes = record.routes()
    return Item(
        id=record.id,
        note=record.note,
        metadata=dict(record.metadata),
        group=record.group,
        image=image_link(record.id) if record.image else None,
        routes=[route for route in ROUTES if route in routes],
    )
