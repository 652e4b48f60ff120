"""Single notes: create, read, follow, cancel or erase one, and preview its prompt."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from dermnote_contracts.notes import ENDED, NoteJob, NoteRequest, Strategy
from dermnote_contracts.problems import DermnoteError
from dermnote_notegen.api.jobs import CallerDep, IdempotencyKey, Jobs, JobsDep, PriorsDep, WaitS, queue_errors
from dermnote_notegen.writing.prompt import build_prompt
from dermnote_notegen.writing.strategies import note_facts, prompt_file

router = APIRouter(tags=["notes"])
POLL_S = 0.1
ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {"model": NoteJob, "description": "Ended within the time of Prefer: wait"},
    202: {"model": NoteJob, "description": "Queued; see Location"},
}


class Preview(BaseModel):
    """The prompt of a note. `prompt`: null for a strategy without a model; `facts`: the facts that the note must state.

    `grammar`: the GBNF that the text must follow, null if the model writes freely. Wordings are drawn with
    `options.seed`, or 0.
    """

    strategy: Strategy
    prompt: str | None
    prompt_version: str
    grammar: str | None
    facts: dict[str, Any]
    blinded: bool


@router.post("/notes", responses=ACCEPTED)
async def create_note(
    body: NoteRequest, *, response: Response, jobs: JobsDep, caller: CallerDep, wait_s: WaitS, key: IdempotencyKey
) -> NoteJob:
    """Queue one note. With `Prefer: wait=N`, wait up to N seconds for it to end."""
    await caller.charge(body.options.n)
    queued = await run_in_threadpool(jobs.submit, body, owner=caller.name, idempotency_key=key)
    deadline = time.monotonic() + wait_s
    async for job in _poll(jobs, queued, owner=caller.name):
        if job.status in ENDED or time.monotonic() >= deadline:
            break
    response.headers["Location"] = f"/notes/{job.id}"
    if wait_s:
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    response.status_code = 200 if wait_s and job.status in ENDED else 202
    return job


@router.post("/notes/preview")
def preview_note(body: NoteRequest, priors: PriorsDep) -> Preview:
    """The prompt, the grammar and the facts that the note must state. The model is not run."""
    facts = note_facts(body)
    prompts = prompt_file(body.strategy)
    prompt = None
    if prompts.instruction:
        prior = priors.get(facts.diagnosis or "")
        seed = body.options.seed or 0
        prompt = build_prompt(body.strategy, facts=facts, prior=prior, options=body.options, seed=seed)
    return Preview(
        strategy=body.strategy,
        prompt=None if prompt is None else prompt.text,
        prompt_version=prompts.version,
        grammar=None if prompt is None else prompt.grammar,
        facts=dict(facts.stated),
        blinded=facts.diagnosis is None,
    )


def requested_job(note_id: str, jobs: JobsDep, caller: CallerDep) -> NoteJob:
    """The job that the path names."""
    return jobs.store.get(note_id, owner=caller.name)


JobDep = Annotated[NoteJob, Depends(requested_job)]


@router.get("/notes/{note_id}")
def get_note(job: JobDep) -> NoteJob:
    """The state of a note and, once it is finished, its text."""
    return job


@router.get("/notes/{note_id}/events", response_class=EventSourceResponse)
async def note_events(job: JobDep, jobs: JobsDep, caller: CallerDep) -> AsyncIterable[ServerSentEvent]:
    """Server-sent events: the job now and at every change of its status, until it has ended.

    The event's name is the status, its data the NoteJob. The stream ends early if the note is erased.
    """
    sent = ""
    # The note is erased, or Redis fails: the response has begun, so it can only end, not report the error.
    with suppress(DermnoteError), queue_errors():
        async for state in _poll(jobs, job, owner=caller.name):
            if state.status != sent:
                sent = state.status
                yield ServerSentEvent(event=sent, data=state.model_dump(mode="json"))


@router.delete("/notes/{note_id}", responses={200: {"model": NoteJob}, 204: {"description": "Erased"}})
def delete_note(note_id: str, jobs: JobsDep, caller: CallerDep) -> Response:
    """Cancel a note that has not ended (200), or erase one that has (204)."""
    job = jobs.delete(note_id, owner=caller.name)
    if job is None:
        return Response(status_code=204)
    return Response(job.model_dump_json(), media_type="application/json")


async def _poll(jobs: Jobs, job: NoteJob, *, owner: str) -> AsyncIterator[NoteJob]:
    """The job, read again every POLL_S until it has ended."""
    while True:
        yield job
        if job.status in ENDED:
            return
        await asyncio.sleep(POLL_S)
        job = await run_in_threadpool(jobs.store.get, job.id, owner=owner)
