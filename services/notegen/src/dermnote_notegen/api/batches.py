"""Batches: up to 1000 notes at once, as JSON or NDJSON; finished ones come back as NDJSON in order."""

from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from dermnote_contracts.notes import Batch
from dermnote_notegen.api.bodies import BATCH_BODY, parse_batch
from dermnote_notegen.api.dependencies import CallerHere, IdempotencyKey, JobsHere

router = APIRouter(tags=["batches"])


@router.post("/notes/batch", status_code=202, openapi_extra={"requestBody": BATCH_BODY})
async def create_batch(
    request: Request, response: Response, jobs: JobsHere, caller: CallerHere, key: IdempotencyKey
) -> Batch:
    """Queue up to 1000 notes, all or none."""
    requests = parse_batch(await request.body(), content_type=request.headers.get("content-type", ""))
    await caller.charge(sum(one.options.n for one in requests))
    batch = await run_in_threadpool(jobs.submit_batch, requests, owner=caller.name, idempotency_key=key)
    response.headers["Location"] = f"/batches/{batch.id}"
    return batch


@router.get("/batches/{batch_id}")
def get_batch(batch_id: str, jobs: JobsHere, caller: CallerHere) -> Batch:
    """Counts by status."""
    return jobs.batch(batch_id, owner=caller.name)


@router.get(
    "/batches/{batch_id}/notes",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
def get_batch_notes(batch_id: str, jobs: JobsHere, caller: CallerHere) -> Response:
    """The ended jobs, one NoteJob a line, sorted by index."""
    ended = jobs.batch_notes(batch_id, owner=caller.name)

    def lines() -> Iterator[str]:
        for job in ended:
            yield job.model_dump_json() + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.delete("/batches/{batch_id}")
def cancel_batch(batch_id: str, jobs: JobsHere, caller: CallerHere) -> Batch:
    """Cancel what has not ended."""
    return jobs.cancel_batch(batch_id, owner=caller.name)
