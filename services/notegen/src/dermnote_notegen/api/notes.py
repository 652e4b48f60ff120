"""One note: ask for it, look at it, cancel or erase it, preview its prompt."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from dermnote_contracts.notes import ENDED, NoteJob, NoteRequest
from dermnote_contracts.problems import DermnoteError
from dermnote_notegen.api import preview
from dermnote_notegen.api.dependencies import CallerHere, IdempotencyKey, JobsHere, PriorsHere, WaitS
from dermnote_notegen.api.jobs import Jobs

router = APIRouter(tags=["notes"])
POLL_S = 0.1
ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {"model": NoteJob, "description": "Ended within the time of Prefer: wait"},
    202: {"model": NoteJob, "description": "Queued; see Location"},
}


@router.post("/notes", responses=ACCEPTED)
async def create_note(
    body: NoteRequest, *, response: Response, jobs: JobsHere, caller: CallerHere, wait_s: WaitS, key: IdempotencyKey
) -> NoteJob:
    """Queue one note. With `Prefer: wait=N` the answer waits up to N seconds for it."""
    await caller.charge(body.options.n)
    job = await run_in_threadpool(jobs.submit, body, owner=caller.name, idempotency_key=key)
    job = await _wait(jobs, job, wait_s, owner=caller.name)
    response.headers["Location"] = f"/notes/{job.id}"
    if wait_s:
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    response.status_code = 200 if wait_s and job.status in ENDED else 202
    return job


@router.post("/notes/preview")
def preview_note(body: NoteRequest, priors: PriorsHere) -> preview.Preview:
    """The rendered prompt, the grammar and the facts that the note must state. No model is asked."""
    return preview.preview(body, priors=priors)


def _asked_for(note_id: str, jobs: JobsHere, caller: CallerHere) -> NoteJob:
    return jobs.get(note_id, owner=caller.name)


JobHere = Annotated[NoteJob, Depends(_asked_for)]


@router.get("/notes/{note_id}")
def get_note(job: JobHere) -> NoteJob:
    """State and, once finished, the note."""
    return job


@router.get("/notes/{note_id}/events", response_class=EventSourceResponse)
async def note_events(job: JobHere, jobs: JobsHere, caller: CallerHere) -> AsyncIterable[ServerSentEvent]:
    """Server-sent events: the job as it is, and again whenever its status changes, until it has ended.

    An event is named by the status; its data are the NoteJob. The stream ends early where the note is erased.
    """
    async for state in _states(jobs, job, owner=caller.name):
        yield ServerSentEvent(event=state.status, data=state.model_dump(mode="json"))


@router.delete("/notes/{note_id}", responses={200: {"model": NoteJob}, 204: {"description": "Erased"}})
def delete_note(note_id: str, jobs: JobsHere, caller: CallerHere) -> Response:
    """Cancel a note that has not ended (200), or erase one that has (204)."""
    job = jobs.delete(note_id, owner=caller.name)
    if job is None:
        return Response(status_code=204)
    return Response(job.model_dump_json(), media_type="application/json")


async def _states(jobs: Jobs, job: NoteJob, *, owner: str) -> AsyncIterator[NoteJob]:
    """The job each time its status is another one, until it has ended."""
    told = ""
    with suppress(DermnoteError):  # erased meanwhile, or Redis is gone: the answer has begun, it can only end
        while True:
            if job.status != told:
                told = job.status
                yield job
            if job.status in ENDED:
                return
            await asyncio.sleep(POLL_S)
            job = await run_in_threadpool(jobs.get, job.id, owner=owner)


async def _wait(jobs: Jobs, job: NoteJob, wait_s: int, *, owner: str) -> NoteJob:
    ends = time.monotonic() + wait_s
    while job.status not in ENDED and time.monotonic() < ends:
        await asyncio.sleep(POLL_S)
        job = await run_in_threadpool(jobs.get, job.id, owner=owner)
    return job
