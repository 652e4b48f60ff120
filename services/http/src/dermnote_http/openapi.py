"""What the services' OpenAPI documents say of every operation, in one place: refusals are problem+json.

Needs the extra `asgi`, like the rest of the HTTP border. FastAPI knows nothing of asgi.py's problem handlers, and would
document a 422 of its own.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from dermnote_contracts.problems import PROBLEM_JSON, Problem

_REF = "#/components/schemas/{model}"
_OWN_REFUSAL = ("HTTPValidationError", "ValidationError")


def body_schema(model: type[BaseModel]) -> dict[str, str]:
    """The schema of a body that its route reads itself; the model goes to complete_document."""
    return {"$ref": _REF.format(model=model.__name__)}


def complete_document(app: FastAPI, *, bodies: Sequence[type[BaseModel]] = ()) -> None:
    """Let the app's document name problem+json for 4xx and 5xx, and hold the models of `bodies` beside its own."""
    plain = app.openapi

    def completed() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain(), bodies)
        return plain()

    app.openapi = completed  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _complete(document: dict[str, Any], bodies: Sequence[type[BaseModel]]) -> None:
    models: list[type[BaseModel]] = [Problem, *bodies]
    asked: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in models]
    _, made = models_json_schema(asked, ref_template=_REF)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _OWN_REFUSAL:
        schemas.pop(name, None)
    for name, schema in made["$defs"].items():
        schemas.setdefault(name, schema)
    for operations in document["paths"].values():
        for operation in operations.values():
            _tell_refusals(operation["responses"])


def _tell_refusals(responses: dict[str, Any]) -> None:
    responses.pop("422", None)
    for status, meaning in (("4XX", "The request is refused; `code` says why"), ("5XX", "The service can't do it now")):
        responses[status] = {"description": meaning, "content": {PROBLEM_JSON: {"schema": body_schema(Problem)}}}
