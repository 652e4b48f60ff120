"""Vectors for images or texts, as the served model makes them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from dermnote_contracts.problems import InvalidRequest, UnsupportedMedia
from dermnote_contracts.retrieval import MAX_EMBEDDED, EmbedRequest, EmbedResponse, Encoding
from dermnote_http.openapi import body_schema
from dermnote_retrieval.api.forms import FORM_TYPES, Form, ServiceDep, media_type, read_body, read_form, validated
from dermnote_retrieval.encoder.protocol import Encoder, Vectors
from dermnote_retrieval.encoder.vector_codec import write_vector
from dermnote_retrieval.runtime.timing import Steps
from dermnote_retrieval.service import Service

router = APIRouter(tags=["models"])


class EmbedFields(BaseModel):
    """The form's fields beside its images."""

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
                            "description": "JPEG, PNG or WebP; the field repeated, one file each",
                        },
                        "encoding": {"type": "string", "enum": ["float", "base64"], "default": "float"},
                    },
                }
            },
        },
    }
}


@router.post("/embed", openapi_extra=EMBED_BODY)
async def embed(request: Request, service: ServiceDep) -> EmbedResponse:
    """Vectors of images (form) or texts (JSON), in their order."""
    kind = media_type(request)
    if kind in FORM_TYPES:
        async with read_form(
            request, known=tuple(EmbedFields.model_fields), service=service, most_images=MAX_EMBEDDED
        ) as form:
            return await _embed_images(form, service)
    if kind == "application/json":
        body = await read_body(request, max_bytes=service.settings.max_body_bytes)
        asked = validated(lambda: EmbedRequest.model_validate_json(body))
        if blank := [place for place, text in enumerate(asked.texts) if not text.strip()]:
            raise InvalidRequest(f"texts.{blank[0]}: must not be blank")
        return await _answer(service, lambda encoder: encoder.encode_texts(asked.texts), asked.encoding, of="texts")
    raise UnsupportedMedia("send multipart/form-data with images, or application/json with texts")


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
    steps, encoder = Steps(), service.catalogue.serving.encoder
    rows = await service.workers.run(lambda: encode(encoder))
    if wrong := np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():
        raise InvalidRequest(f"{of}.{wrong[0]}: the encoder finds nothing in it")
    vectors: list[list[float] | str] = [write_vector(row) if encoding == "base64" else row.tolist() for row in rows]
    return EmbedResponse(model=encoder.manifest.model_id, dim=rows.shape[1], vectors=vectors, took_ms=steps.total_ms)
