"""Batch bodies: `{"items": [...]}` or NDJSON, with every bad item named by its index and field."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from dermnote_contracts.notes import MAX_BATCH, NoteRequest
from dermnote_contracts.problems import FieldError, InvalidRequest, field_errors
from dermnote_notegen.writing.strategies import note_facts

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
        "application/x-ndjson": {"schema": {"type": "string", "description": "One NoteRequest a line"}},
    },
}


def parse_batch(body: bytes, *, content_type: str) -> list[NoteRequest]:
    """The requests of a batch body; raises InvalidRequest that names every bad index and field."""
    records = _ndjson(body) if "ndjson" in content_type.lower() else _items(body)
    if not 1 <= len(records) <= MAX_BATCH:
        raise InvalidRequest(f"a batch holds 1 to {MAX_BATCH} items, this one {len(records)}")
    requests, errors = [], []
    for index, record in enumerate(records):
        try:
            requests.append(NoteRequest.model_validate(record))
            note_facts(requests[-1])
        except ValidationError as wrong:
            errors += field_errors(wrong.errors(), index=index)
        except InvalidRequest as refused:
            errors.append(FieldError(field="metadata", message=f"{refused.code}: {refused.detail}", index=index))
    if errors:
        raise InvalidRequest("nothing was queued; see errors", errors=errors)
    return requests


def _items(body: bytes) -> list[Any]:
    document = _json(body, index=None)
    if not isinstance(document, dict) or not isinstance(document.get("items"), list):
        raise InvalidRequest('the body must be {"items": [NoteRequest, ...]}')
    if set(document) != {"items"}:
        raise InvalidRequest("the body must hold nothing beside items")
    return list(document["items"])


def _ndjson(body: bytes) -> list[Any]:
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > MAX_BATCH:
        raise InvalidRequest(f"a batch holds 1 to {MAX_BATCH} items, this one {len(lines)}")
    return [_json(line, index=index) for index, line in enumerate(lines)]


def _json(text: bytes, *, index: int | None) -> Any:
    try:
        return from_json(text)
    except ValueError as wrong:
        error = FieldError(field="body", message="not valid JSON", index=index)
        raise InvalidRequest("the body is not valid JSON", errors=[error]) from wrong
