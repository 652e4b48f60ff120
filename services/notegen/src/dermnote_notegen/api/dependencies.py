"""FastAPI dependencies of the routes: the app's objects, the caller and request headers."""

import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Request

from dermnote_contracts.problems import InvalidRequest
from dermnote_http.auth import Caller, caller_of
from dermnote_notegen.api.jobs import Jobs, queue_errors
from dermnote_notegen.writing.priors import Priors

MAX_WAIT_S = 60


async def get_jobs(request: Request) -> AsyncIterator[Jobs]:
    """The app's jobs; Redis errors of a route become QueueUnavailable."""
    with queue_errors():
        yield request.app.state.jobs


def get_priors(request: Request) -> Priors:
    """The app's clinical priors."""
    priors: Priors = request.app.state.priors
    return priors


def preferred_wait_s(prefer: Annotated[str | None, Header()] = None) -> int:
    """Seconds of `Prefer: wait=N` (RFC 7240), at most 60; 0 without it."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?:$|[,;\s])", prefer or "", re.IGNORECASE)
    return min(int(match[1]), MAX_WAIT_S) if match else 0


def idempotency_key(key: Annotated[str | None, Header(alias="Idempotency-Key")] = None) -> str | None:
    """The Idempotency-Key, 1 to 255 printable characters."""
    if key is not None and not (1 <= len(key) <= 255 and key.isprintable()):
        raise InvalidRequest("Idempotency-Key must have 1 to 255 printable characters")
    return key


PriorsDep = Annotated[Priors, Depends(get_priors)]
CallerDep = Annotated[Caller, Depends(caller_of)]
JobsDep = Annotated[Jobs, Depends(get_jobs)]
WaitS = Annotated[int, Depends(preferred_wait_s)]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
