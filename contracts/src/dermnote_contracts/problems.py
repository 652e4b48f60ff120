"""The tree of errors (RFC 9457): raised where they happen, rendered once by the service, raised again by the client.

DermnoteError 500
├── InvalidRequest 422
│   ├── NoFacts, StrategyNeedsDiagnosis, IdempotencyKeyReused, NoteUnfaithful
│   └── ImageRefused, FilterRefused, ModelRefused
├── Unauthorized 401
├── Forbidden 403
├── NotFound 404
│   └── UnknownNote, UnknownBatch, UnknownPrior, UnknownItem, UnknownModel, UnknownSnapshot
├── MethodNotAllowed 405
├── Conflict 409
│   └── SnapshotDamaged, EncoderNotAligned, ModelMismatch
├── TooLarge 413
├── UnsupportedMedia 415
├── TooManyRequests 429
├── ClientGone 499
├── InternalError 500, WorkerGaveUp 500
├── EngineRefused 502, EngineCrashed 502
├── Unavailable 503
│   └── QueueFull, QueueUnavailable, EngineUnavailable, EngineOverloaded, Stopping
├── StartRefused 503
├── DeadlineExceeded 504
└── InsufficientStorage 507
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

PROBLEM_JSON = "application/problem+json"
MAX_FIELD_CHARS = 200


class FieldError(BaseModel):
    """One rejected value: its path (`body.metadata.age`) and the reason. Never the value itself."""

    field: str
    message: str
    index: int | None = None
    nearest: list[str] | None = None


class Problem(BaseModel):
    """The body of every error response."""

    model_config = ConfigDict(extra="ignore")

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str = ""
    errors: list[FieldError] = []


class DermnoteError(Exception):
    """Base of all errors with a stable code."""

    code: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str = "", *, errors: Sequence[FieldError] = (), retry_after_s: int | None = None
    ) -> None:
        self.detail = detail
        self.errors = list(errors)
        self.retry_after_s = retry_after_s
        super().__init__(detail or self.title)

    def problem(self) -> Problem:
        """This error as a response body."""
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
        """An error about one field, which the detail names too."""
        return cls(f"{field}: {message}", errors=[FieldError(field=field, message=message)])


class NoFacts(InvalidRequest):
    code, title = "no-facts", "The metadata contains no known fact"


class StrategyNeedsDiagnosis(InvalidRequest):
    code, title = "strategy-needs-diagnosis", "This strategy cannot write a note without the diagnosis"


class IdempotencyKeyReused(InvalidRequest):
    code, title = "idempotency-key-reused", "The Idempotency-Key was used with a different body"


class NoteUnfaithful(InvalidRequest):
    """A note that failed verification under `on_unfaithful: reject`."""

    code, title = "note-unfaithful", "No faithful note was written"


class ImageRefused(InvalidRequest):
    code, title = "image-refused", "The upload is not a readable image"


class FilterRefused(InvalidRequest):
    code, title = "filter-refused", "The filter is not valid"


class ModelRefused(InvalidRequest):
    code, title = "model-refused", "The model folder cannot be used"


class Unauthorized(DermnoteError):
    code, status, title = "unauthorized", 401, "An API key is required"


class Forbidden(DermnoteError):
    code, status, title = "forbidden", 403, "Requests from this host or origin are not allowed"


class NotFound(DermnoteError):
    code, status, title = "not-found", 404, "Not found"


class UnknownNote(NotFound):
    code, title = "unknown-note", "No such note"


class UnknownBatch(NotFound):
    code, title = "unknown-batch", "No such batch"


class UnknownPrior(NotFound):
    code, title = "unknown-prior", "No clinical priors for this diagnosis"


class UnknownItem(NotFound):
    code, title = "unknown-item", "No such item"


class UnknownModel(NotFound):
    code, title = "unknown-model", "No such model in the model folder"


class UnknownSnapshot(NotFound):
    code, title = "unknown-snapshot", "No such snapshot"


class MethodNotAllowed(DermnoteError):
    code, status, title = "method-not-allowed", 405, "The method is not allowed here"


class Conflict(DermnoteError):
    code, status, title = "conflict", 409, "The request conflicts with the current state"


class SnapshotDamaged(Conflict):
    code, title = "snapshot-damaged", "The snapshot is damaged"


class EncoderNotAligned(Conflict):
    code, title = "encoder-not-aligned", "The encoder's image and text towers are not aligned"


class ModelMismatch(Conflict):
    code, title = "model-mismatch", "The vectors were made by another model"


class TooLarge(DermnoteError):
    code, status, title = "too-large", 413, "The request is too large"


class UnsupportedMedia(DermnoteError):
    code, status, title = "unsupported-media-type", 415, "The content type is not supported here"


class TooManyRequests(DermnoteError):
    code, status, title = "too-many-requests", 429, "The key has reached its limit per minute"


class Unavailable(DermnoteError):
    code, status, title = "unavailable", 503, "The service is unavailable"


class QueueFull(Unavailable):
    code, title = "queue-full", "The queue is full"


class QueueUnavailable(Unavailable):
    code, title = "queue-unavailable", "Redis does not respond"


class EngineUnavailable(Unavailable):
    code, title = "engine-unavailable", "The engine does not respond"


class EngineOverloaded(Unavailable):
    """The engine's own queue is full."""

    code, title = "engine-overloaded", "The engine has too many requests waiting"


class Stopping(Unavailable):
    code, title = "stopping", "The service is stopping"


class EngineRefused(DermnoteError):
    code, status, title = "engine-refused", 502, "The engine rejected the request"


class EngineCrashed(DermnoteError):
    """The engine crashed more than once on the same request."""

    code, status, title = "engine-crashed", 502, "The engine crashed each time it ran this request"


class DeadlineExceeded(DermnoteError):
    """The request's own deadline passed."""

    code, status, title = "deadline-exceeded", 504, "The deadline passed"


class ClientGone(DermnoteError):
    """The client disconnected, so this response is never read."""

    code, status, title = "client-gone", 499, "The client disconnected"


class StartRefused(DermnoteError):
    """A program cannot start; the detail says what is wrong and what to do."""

    code, status, title = "start-refused", 503, "The service cannot start"


class WorkerGaveUp(DermnoteError):
    """The last retry of a job ended without a note."""

    code, title = "worker-gave-up", "The note could not be written after several attempts"


class InsufficientStorage(DermnoteError):
    code, status, title = "insufficient-storage", 507, "The disk is full"


class InternalError(DermnoteError):
    """An unexpected exception; carries no detail."""

    code, status = "internal-error", 500


def error_classes() -> dict[str, type[DermnoteError]]:
    """Code -> error class, for every class that defines a code."""
    classes, found = [DermnoteError], dict[str, type[DermnoteError]]()
    for error_class in classes:
        if "code" in vars(error_class):
            found[error_class.code] = error_class
        classes.extend(error_class.__subclasses__())
    return found


def error_from_problem(body: Any, *, status: int) -> DermnoteError:
    """The error that the service raised, from its response; DermnoteError for an invalid body or unknown code."""
    if not isinstance(body, dict) or "code" not in body:
        return DermnoteError(f"HTTP {status} without a problem body")
    try:
        problem = Problem.model_validate(body)
    except ValidationError:
        return DermnoteError(f"HTTP {status} with a malformed problem body")
    error_class = error_classes().get(problem.code, DermnoteError)
    return error_class(problem.detail or problem.title, errors=problem.errors)


def field_errors(errors: Sequence[Any], *, index: int | None = None) -> list[FieldError]:
    """Pydantic's errors as FieldErrors, without the rejected values. Contradicting fields get one error each."""
    return [
        FieldError(
            field=".".join(map(str, path))[:MAX_FIELD_CHARS] or "body",
            message=error["msg"],
            index=index,
            nearest=(error.get("ctx") or {}).get("nearest"),
        )
        for error in errors
        for path in _paths(error)
    ]


def _paths(error: Any) -> list[tuple[Any, ...]]:
    fields = (error.get("ctx") or {}).get("fields") or []
    return [(*error["loc"], field) for field in fields] or [error["loc"]]


def parse_json(text: str | bytes, *, at: str) -> Any:
    """Parse strict JSON (no NaN, limited depth). Raises InvalidRequest for the field `at`."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest.at(at, f"is not valid JSON: {error}") from error


def one_line(error: DermnoteError) -> str:
    """The error as one line for a person: title, detail and the first rejected fields."""
    fields = "; ".join(
        f"{'' if e.index is None else f'item {e.index}: '}{e.field}: {e.message}" for e in error.errors[:3]
    )
    more = f" (+{len(error.errors) - 3} more)" if len(error.errors) > 3 else ""
    parts = [error.title, error.detail if error.detail != error.title else "", fields + more]
    return ": ".join(part for part in parts if part)
