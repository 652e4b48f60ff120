"""Models: vectors of images or texts, the available models, and the move to another one."""

from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from dermnote_contracts.problems import InvalidRequest, UnsupportedMedia
from dermnote_contracts.retrieval import (
    MAX_EMBEDDED,
    ActivateModel,
    EmbedRequest,
    EmbedResponse,
    Encoding,
    ModelSummary,
)
from dermnote_http.app import body_schema
from dermnote_retrieval.api.forms import FORM_TYPES, Form, ServiceDep, media_type, read_body, read_form, validated
from dermnote_retrieval.encoder.base import Encoder, Vectors, write_vector
from dermnote_retrieval.runtime.metrics import StepTimer
from dermnote_retrieval.service import Service

router = APIRouter(tags=["models"])


class EmbedFields(BaseModel):
    """The form's fields other than its images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoding: Encoding = "float"


EMBED_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": body_schema(EmbedRequest)},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "minItems": 1,
                            "maxItems": MAX_EMBEDDED,
                            "description": "JPEG, PNG or WebP; repeat the field for several files",
                        },
                        "encoding": {"type": "string", "enum": ["float", "base64"], "default": "float"},
                    },
                }
            },
        },
    }
}
ACTIVATE_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": body_schema(ActivateModel)}}}
}


@router.post("/embed", openapi_extra=EMBED_BODY)
async def embed(request: Request, service: ServiceDep) -> EmbedResponse:
    """Vectors of images (form) or texts (JSON), in order."""
    kind = media_type(request)
    if kind in FORM_TYPES:
        async with read_form(
            request, known=tuple(EmbedFields.model_fields), service=service, max_images=MAX_EMBEDDED
        ) as form:
            return await _embed_images(form, service)
    if kind == "application/json":
        body = await read_body(request, max_bytes=service.settings.max_body_bytes)
        parsed = validated(lambda: EmbedRequest.model_validate_json(body))
        if blank := [position for position, text in enumerate(parsed.texts) if not text.strip()]:
            raise InvalidRequest(f"texts.{blank[0]}: must not be blank")
        return await _answer(service, lambda encoder: encoder.encode_texts(parsed.texts), parsed.encoding, of="texts")
    raise UnsupportedMedia("send multipart/form-data with images, or application/json with texts")


@router.get("/models")
async def list_models(service: ServiceDep) -> list[ModelSummary]:
    """The available models; `reembedding` is the progress of the re-embedding, if one is running."""
    return await service.workers.run(service.reembedding.models)


@router.put("/models/active", status_code=202, responses={200: {"model": ModelSummary}}, openapi_extra=ACTIVATE_BODY)
async def activate_model(request: Request, response: Response, service: ServiceDep) -> ModelSummary:
    """Re-embed in the background and then serve another model (202); 200 if it is already active."""
    body = await read_body(request, max_bytes=service.settings.max_body_bytes)
    model = validated(lambda: ActivateModel.model_validate_json(body))
    summary = await service.workers.run(lambda: service.reembedding.activate(model.name))
    response.status_code = 200 if summary.active else 202
    return summary


async def _embed_images(form: Form, service: Service) -> EmbedResponse:
    if not form.images:
        raise InvalidRequest("the form has no file named image")
    fields = validated(lambda: EmbedFields.model_validate(form.fields))

    def encode(encoder: Encoder) -> Vectors:
        return encoder.encode_images([service.decoder.decode(image) for image in form.images])

    return await _answer(service, encode, fields.encoding, of="image")


async def _answer(
    service: Service, encode: Callable[[Encoder], Vectors], encoding: Encoding, *, of: str
) -> EmbedResponse:
    timer, encoder = StepTimer(), service.writer.served.encoder
    rows = await service.workers.run(lambda: encode(encoder))
    if empty := np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():
        raise InvalidRequest(f"{of}.{empty[0]}: the encoder finds no content in it")
    vectors: list[list[float] | str] = [write_vector(row) if encoding == "base64" else row.tolist() for row in rows]
    return EmbedResponse(model=encoder.manifest.model_id, dim=rows.shape[1], vectors=vectors, took_ms=timer.total_ms)
