"""Problem+json in a service's OpenAPI document. FastAPI alone would document its own 422 response."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from dermnote_contracts.problems import PROBLEM_JSON, Problem

_REF = "#/components/schemas/{model}"
_FASTAPI_MODELS = ("HTTPValidationError", "ValidationError")
_ERROR_RESPONSES = {"4XX": "The request is rejected; `code` says why", "5XX": "The service cannot answer now"}


def body_schema(model: type[BaseModel]) -> dict[str, str]:
    """Reference to the schema of a body that its route parses itself; pass the model to `complete_document` too."""
    return {"$ref": _REF.format(model=model.__name__)}


def complete_document(app: FastAPI, *, bodies: Sequence[type[BaseModel]] = ()) -> None:
    """Document problem+json for all 4xx and 5xx answers, and add the schemas of `bodies`."""
    fastapi_document = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(fastapi_document(), bodies)
        return fastapi_document()

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _complete(document: dict[str, Any], bodies: Sequence[type[BaseModel]]) -> None:
    classes: list[type[BaseModel]] = [Problem, *bodies]
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in classes]
    _, generated = models_json_schema(models, ref_template=_REF)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _FASTAPI_MODELS:
        schemas.pop(name, None)
    for name, schema in generated["$defs"].items():
        schemas.setdefault(name, schema)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"] |= {
                status: {"description": meaning, "content": {PROBLEM_JSON: {"schema": body_schema(Problem)}}}
                for status, meaning in _ERROR_RESPONSES.items()
            }
