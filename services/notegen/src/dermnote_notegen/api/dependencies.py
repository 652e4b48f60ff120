"""What routes take from the request: the jobs object and the headers that DESIGN's contract names."""

import re
from typing import Annotated

from fastapi import Depends, Header, Request

from dermnote_contracts.problems import InvalidRequest
from dermnote_http.auth import Caller, caller_of
from dermnote_notegen.api.jobs import Jobs
from dermnote_notegen.writing.priors import Priors

MAX_WAIT_S = 60


def get_jobs(request: Request) -> Jobs:
    """The app's jobs."""
    jobs: Jobs = request.app.state.jobs
    return jobs


def preferred_wait_s(prefer: Annotated[str | None, Header()] = None) -> int:
    """Seconds of `Prefer: wait=N` (RFC 7240), at most 60; 0 without it."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?:$|[,;\s])", prefer or "", re.IGNORECASE)
    return min(int(match[1]), MAX_WAIT_S) if match else 0


def idempotency_key(key: Annotated[str | None, Header(alias="Idempotency-Key")] = None) -> str | None:
    """The Idempotency-Key, 1 to 255 printable characters."""
    if key is not None and not (1 <= len(key) <= 255 and key.isprintable()):
        raise InvalidRequest("Idempotency-Key must have 1 to 255 printable characters")
    return key


def get_priors(request: Request) -> Priors:
    """The app's clinical priors."""
    priors: Priors = request.app.state.priors
    return priors


PriorsHere = Annotated[Priors, Depends(get_priors)]
CallerHere = Annotated[Caller, Depends(caller_of)]
JobsHere = Annotated[Jobs, Depends(get_jobs)]
WaitS = Annotated[int, Depends(preferred_wait_s)]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
