"""Client of the note service: one method per endpoint."""

import uuid
from collections.abc import Sequence

from dermnote_contracts.notes import (
    Batch,
    BatchRequest,
    ModelInfo,
    NoteJob,
    NoteRequest,
    PriorsInfo,
    StrategyInfo,
)
from dermnote_train.remote.http import ServiceClient


class NoteService(ServiceClient):
    """The note service over HTTP."""

    service = "note service"
    url_setting = "NOTEGEN_URL"
    key_setting = "NOTEGEN_API_KEY"

    def submit(self, request: NoteRequest, *, wait_s: int = 0, idempotency_key: str | None = None) -> NoteJob:
        """Request one note; waits up to `wait_s` seconds (60 at most) and returns the job in its current state."""
        headers = _idempotent(idempotency_key) | ({"Prefer": f"wait={wait_s}"} if wait_s else {})
        return self.call(NoteJob, "POST", "/notes", body=request, headers=headers, timeout_s=30.0 + wait_s)

    def get(self, job_id: str) -> NoteJob:
        """The current state of a job."""
        return self.call(NoteJob, "GET", f"/notes/{job_id}")

    def submit_batch(self, requests: Sequence[NoteRequest], *, idempotency_key: str | None = None) -> Batch:
        """Request up to 1000 notes at once. Either all are queued or, if one is invalid, none."""
        body = BatchRequest(items=list(requests))
        headers = _idempotent(idempotency_key)
        return self.call(Batch, "POST", "/notes/batch", body=body, headers=headers, timeout_s=60.0)

    def batch(self, batch_id: str) -> Batch:
        """The progress of a batch."""
        return self.call(Batch, "GET", f"/batches/{batch_id}")

    def batch_notes(self, batch_id: str) -> list[NoteJob]:
        """The ended jobs of a batch, in request order; `index` is the position of the request."""
        response = self.request("GET", f"/batches/{batch_id}/notes", timeout_s=60.0)
        return self.parse_lines(NoteJob, response.content)

    def cancel(self, job_id: str) -> NoteJob | None:
        """Cancel a queued or running job and return it, or erase an ended one and return None."""
        response = self.request("DELETE", f"/notes/{job_id}")
        return self.parse(NoteJob, response.content) if response.content else None

    def cancel_batch(self, batch_id: str) -> Batch:
        """Cancel the unfinished jobs of a batch."""
        return self.call(Batch, "DELETE", f"/batches/{batch_id}")

    def strategies(self) -> list[StrategyInfo]:
        """The available strategies."""
        return self.call(list[StrategyInfo], "GET", "/strategies")

    def priors(self) -> PriorsInfo:
        """The diagnoses with clinical priors, and the version of the priors."""
        return self.call(PriorsInfo, "GET", "/priors")

    def model(self) -> ModelInfo:
        """The language model that writes the notes."""
        return self.call(ModelInfo, "GET", "/model")


def _idempotent(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid.uuid4().hex}
