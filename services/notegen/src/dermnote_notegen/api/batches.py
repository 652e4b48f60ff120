"""Batches: up to 1000 notes at once, as JSON or NDJSON; ended jobs are returned as NDJSON in order."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from pydantic_core import from_json

from dermnote_contracts.notes import MAX_BATCH, Batch, NoteRequest
from dermnote_contracts.problems import FieldError, InvalidRequest, field_errors
from dermnote_notegen.api.jobs import CallerDep, IdempotencyKey, JobsDep
from dermnote_notegen.writing.strategies import note_facts

router = APIRouter(tags=["batches"])
BATCH_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["items"],
                "properties": {"items": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": {}}},
            }
        },
        "application/x-ndjson": {"schema": {"type": "string", "description": "One NoteRequest per line"}},
    },
}


@router.post("/notes/batch", status_code=202, openapi_extra={"requestBody": BATCH_BODY})
async def create_batch(
    request: Request, response: Response, jobs: JobsDep, caller: CallerDep, key: IdempotencyKey
) -> Batch:
    """Queue up to 1000 notes, all or none."""
    requests = parse_batch(await request.body(), content_type=request.headers.get("content-type", ""))
    await caller.charge(sum(one.options.n for one in requests))
    batch = await run_in_threadpool(jobs.submit_batch, requests, owner=caller.name, idempotency_key=key)
    response.headers["Location"] = f"/batches/{batch.id}"
    return batch


@router.get("/batches/{batch_id}")
def get_batch(batch_id: str, jobs: JobsDep, caller: CallerDep) -> Batch:
    """Counts by status."""
    return jobs.store.batch(batch_id, owner=caller.name)


@router.get(
    "/batches/{batch_id}/notes",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
def get_batch_notes(batch_id: str, jobs: JobsDep, caller: CallerDep) -> Response:
    """The ended jobs, one NoteJob per line, sorted by index."""
    ended = jobs.store.ended_in_batch(batch_id, owner=caller.name)
    return StreamingResponse((job.model_dump_json() + "\n" for job in ended), media_type="application/x-ndjson")


@router.delete("/batches/{batch_id}")
def cancel_batch(batch_id: str, jobs: JobsDep, caller: CallerDep) -> Batch:
    """Cancel the notes that have not ended."""
    return jobs.cancel_batch(batch_id, owner=caller.name)


def parse_batch(body: bytes, *, content_type: str) -> list[NoteRequest]:
    """The requests of a batch body; raises InvalidRequest with the index and field of every invalid item."""
    items = _ndjson_items(body) if "ndjson" in content_type.lower() else _json_items(body)
    if not 1 <= len(items) <= MAX_BATCH:
        raise InvalidRequest(f"a batch must have 1 to {MAX_BATCH} items; this one has {len(items)}")
    requests, errors = [], []
    for index, item in enumerate(items):
        try:
            requests.append(NoteRequest.model_validate(item))
            note_facts(requests[-1])
        except ValidationError as error:
            errors += field_errors(error.errors(), index=index)
        except InvalidRequest as error:
            errors.append(FieldError(field="metadata", message=f"{error.code}: {error.detail}", index=index))
    if errors:
        raise InvalidRequest("nothing was queued; see errors", errors=errors)
    return requests


def _json_items(body: bytes) -> list[Any]:
    document = _parse_json(body, index=None)
    if not isinstance(document, dict) or not isinstance(document.get("items"), list):
        raise InvalidRequest('the body must be {"items": [NoteRequest, ...]}')
    if set(document) != {"items"}:
        raise InvalidRequest("the only key of the body must be items")
    return list(document["items"])


def _ndjson_items(body: bytes) -> list[Any]:
    lines = [line for line in body.split(b"\n") if line.strip()]
    too_many = len(lines) > MAX_BATCH  # the caller rejects the batch by its length alone
    return list(lines) if too_many else [_parse_json(line, index=index) for index, line in enumerate(lines)]


def _parse_json(text: bytes, *, index: int | None) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        field_error = FieldError(field="body", message="not valid JSON", index=index)
        raise InvalidRequest("the body is not valid JSON", errors=[field_error]) from error
