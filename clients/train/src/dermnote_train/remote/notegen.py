"""The note service's client: one method an endpoint."""

import uuid
from collections.abc import Sequence
from typing import Self

from pydantic import SecretStr

from dermnote_contracts.notes import (
    Batch,
    BatchRequest,
    Health,
    ModelInfo,
    NoteJob,
    NoteRequest,
    PriorsInfo,
    StrategyInfo,
)
from dermnote_train.remote.http import Session


class NoteService:
    """Notes over HTTP. Every method may raise DermnoteError, as the service did, or UserError when it is down."""

    def __init__(self, url: str, *, key: SecretStr | None = None, patience_s: float = 60.0) -> None:
        self._session = Session(
            url,
            service="note service",
            variable="NOTEGEN_URL",
            key_variable="NOTEGEN_API_KEY",
            key=key,
            patience_s=patience_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def submit(self, request: NoteRequest, *, wait_s: int = 0, idempotency_key: str | None = None) -> NoteJob:
        """Ask for one note; waits for it up to `wait_s` (60 at most) and gives the job as it then is."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex, "Content-Type": "application/json"}
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        response = self._session.request(
            "POST", "/notes", timeout_s=30.0 + wait_s, headers=headers, content=_json(request)
        )
        return self._session.parse(NoteJob, response.content)

    def get(self, job_id: str) -> NoteJob:
        """A job as it is now."""
        return self._session.get(NoteJob, f"/notes/{job_id}")

    def submit_batch(self, requests: Sequence[NoteRequest], *, idempotency_key: str | None = None) -> Batch:
        """Ask for up to 1000 notes at once; all are queued or, when one is refused, none."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex, "Content-Type": "application/json"}
        body = BatchRequest(items=list(requests))
        response = self._session.request("POST", "/notes/batch", timeout_s=60.0, headers=headers, content=_json(body))
        return self._session.parse(Batch, response.content)

    def batch(self, batch_id: str) -> Batch:
        """How far a batch is."""
        return self._session.get(Batch, f"/batches/{batch_id}")

    def batch_notes(self, batch_id: str) -> list[NoteJob]:
        """The ended jobs of a batch, in the order of its requests; `index` says which request."""
        response = self._session.request("GET", f"/batches/{batch_id}/notes", timeout_s=60.0)
        return self._session.parse_lines(NoteJob, response.content)

    def cancel(self, job_id: str) -> NoteJob | None:
        """Cancel a waiting or running job (gives it), or erase an ended one (gives None)."""
        response = self._session.request("DELETE", f"/notes/{job_id}")
        return self._session.parse(NoteJob, response.content) if response.content else None

    def cancel_batch(self, batch_id: str) -> Batch:
        """Cancel what a batch has not ended yet."""
        return self._session.parse(Batch, self._session.request("DELETE", f"/batches/{batch_id}").content)

    def health(self) -> Health:
        """Readiness; "unavailable" with the failing checks is an answer too."""
        return self._session.health()

    def require_ready(self) -> None:
        """Raise UserError unless notes can be asked for now."""
        self._session.require_ready()

    def strategies(self) -> list[StrategyInfo]:
        """The strategies on offer."""
        return self._session.get_list(StrategyInfo, "/strategies")

    def priors(self) -> PriorsInfo:
        """The diagnoses that have clinical priors, and the priors' version."""
        return self._session.get(PriorsInfo, "/priors")

    def model(self) -> ModelInfo:
        """The language model behind the notes."""
        return self._session.get(ModelInfo, "/model")


def _json(body: NoteRequest | BatchRequest) -> bytes:
    return body.model_dump_json(exclude_none=True).encode()
