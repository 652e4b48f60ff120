"""The one tree of errors (RFC 9457): raised where it happens, rendered once, raised again by the client.

DermnoteError
├── InvalidRequest 422 ─┬─ NoFacts, StrategyNeedsDiagnosis, IdempotencyKeyReused
│                       └─ ImageRefused, FilterRefused, ModelRefused
├── NotFound 404 ─ UnknownNote, UnknownBatch, UnknownPrior, UnknownItem, UnknownModel
├── Conflict 409 ─ EncoderNotAligned, ModelMismatch
├── TooLarge 413, UnsupportedMedia 415, Unauthorized 401, Forbidden 403, TooManyRequests 429, InsufficientStorage 507
└── Unavailable 503 ─ QueueFull, EngineUnavailable, QueueUnavailable, Stopping
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

PROBLEM_JSON = "application/problem+json"


class FieldError(BaseModel):
    """One refused value: where it stands (`body.metadata.age`) and why. Never the value itself."""

    field: str
    message: str
    index: int | None = None
    nearest: list[str] | None = None


class Problem(BaseModel):
    """The body of every error answer."""

    model_config = ConfigDict(extra="ignore")

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str = ""
    errors: list[FieldError] = []


class DermnoteError(Exception):
    """Base of all errors that have a stable code."""

    code: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong inside the service"

    def __init__(
        self, detail: str = "", *, errors: Sequence[FieldError] = (), retry_after_s: int | None = None
    ) -> None:
        self.detail = detail
        self.errors = list(errors)
        self.retry_after_s = retry_after_s
        super().__init__(detail or self.title)

    def problem(self) -> Problem:
        """This error as the body of an answer."""
        return Problem(
            type=f"urn:dermnote:problem:{self.code}",
            title=self.title,
            status=self.status,
            code=self.code,
            detail=self.detail,
            errors=self.errors,
        )


class InvalidRequest(DermnoteError):
    code, status, title = "invalid-request", 422, "The request is not valid"

    @classmethod
    def at(cls, field: str, message: str) -> Self:
        """What is wrong with one field, named in the detail too."""
        return cls(f"{field}: {message}", errors=[FieldError(field=field, message=message)])


class NoFacts(InvalidRequest):
    code, title = "no-facts", "The metadata holds no known fact to write about"


class StrategyNeedsDiagnosis(InvalidRequest):
    code, title = "strategy-needs-diagnosis", "This strategy cannot write a note without the diagnosis"


class IdempotencyKeyReused(InvalidRequest):
    code, title = "idempotency-key-reused", "The Idempotency-Key was used with another body"


class ImageRefused(InvalidRequest):
    code, title = "image-refused", "The upload is not an image that can be read"


class FilterRefused(InvalidRequest):
    code, title = "filter-refused", "The filter is not valid"


class ModelRefused(InvalidRequest):
    code, title = "model-refused", "The model folder cannot be used"


class NoteUnfaithful(InvalidRequest):
    code, title = "note-unfaithful", "No faithful note was written"


class Unauthorized(DermnoteError):
    code, status, title = "unauthorized", 401, "The service asks for a key"


class Forbidden(DermnoteError):
    code, status, title = "forbidden", 403, "The request is not allowed from there"


class NotFound(DermnoteError):
    code, status, title = "not-found", 404, "There is nothing here"


class UnknownNote(NotFound):
    code, title = "unknown-note", "There is no such note"


class UnknownBatch(NotFound):
    code, title = "unknown-batch", "There is no such batch"


class UnknownPrior(NotFound):
    code, title = "unknown-prior", "There are no clinical priors of that diagnosis"


class UnknownItem(NotFound):
    code, title = "unknown-item", "There is no such item"


class UnknownModel(NotFound):
    code, title = "unknown-model", "There is no such model in the model folder"


class UnknownSnapshot(NotFound):
    code, title = "unknown-snapshot", "There is no such snapshot"


class MethodNotAllowed(DermnoteError):
    code, status, title = "method-not-allowed", 405, "The method is not allowed here"


class Conflict(DermnoteError):
    code, status, title = "conflict", 409, "The request does not fit the present state"


class SnapshotDamaged(Conflict):
    code, title = "snapshot-damaged", "The snapshot is not what was written"


class EncoderNotAligned(Conflict):
    code, title = "encoder-not-aligned", "The encoder's image and text towers were never aligned"


class ModelMismatch(Conflict):
    code, title = "model-mismatch", "The vectors were made by another model"


class TooLarge(DermnoteError):
    code, status, title = "too-large", 413, "The request is too large"


class UnsupportedMedia(DermnoteError):
    code, status, title = "unsupported-media-type", 415, "The content type is not supported here"


class TooManyRequests(DermnoteError):
    code, status, title = "too-many-requests", 429, "The key has used what it may use in a minute"


class Unavailable(DermnoteError):
    code, status, title = "unavailable", 503, "The service cannot take the request now"


class QueueFull(Unavailable):
    code, title = "queue-full", "Too many notes are waiting"


class QueueUnavailable(Unavailable):
    code, title = "queue-unavailable", "Redis does not answer"


class EngineUnavailable(Unavailable):
    code, title = "engine-unavailable", "The language model's engine does not answer"


class Stopping(Unavailable):
    code, title = "stopping", "The service is stopping"


class EngineRefused(DermnoteError):
    code, status, title = "engine-refused", 502, "The language model's engine refused the request"


class EngineCrashed(DermnoteError):
    code, status, title = "engine-crashed", 502, "The language model's engine crashed each time it ran this request"


class WorkerGaveUp(DermnoteError):
    code, title = "worker-gave-up", "The note could not be written after several attempts"


class InsufficientStorage(DermnoteError):
    code, status, title = "insufficient-storage", 507, "The disk is full"


class InternalError(DermnoteError):
    """What a bug becomes on its way out: no detail."""


def _tree(base: type[DermnoteError]) -> dict[str, type[DermnoteError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        found |= _tree(child)
    return found


def error_from_problem(body: Any, *, status: int) -> DermnoteError:
    """The same class that the service raised, from its answer; DermnoteError for an answer that is none of ours."""
    if not isinstance(body, dict) or "code" not in body:
        return DermnoteError(f"HTTP {status} without a problem body")
    try:
        problem = Problem.model_validate(body)
    except ValidationError:
        return DermnoteError(f"HTTP {status} with a malformed problem body")
    kind = _tree(DermnoteError).get(problem.code, DermnoteError)
    return kind(problem.detail or problem.title, errors=problem.errors)


def one_line(error: DermnoteError) -> str:
    """The error as one line for a person: title, detail and the first refused fields."""
    fields = "; ".join(
        f"{'' if e.index is None else f'item {e.index}: '}{e.field}: {e.message}" for e in error.errors[:3]
    )
    more = f" (+{len(error.errors) - 3} more)" if len(error.errors) > 3 else ""
    parts = [error.title, error.detail if error.detail != error.title else "", fields + more]
    return ": ".join(part for part in parts if part)
