"""Search by an image (form), or by a text, a vector or an item's id (JSON)."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from dermnote_contracts.problems import InvalidRequest, UnsupportedMedia, parse_json
from dermnote_contracts.retrieval import MAX_K, Distinct, Exclude, SearchRequest, SearchResponse, Via
from dermnote_http.app import body_schema
from dermnote_retrieval.api.forms import (
    FORM_TYPES,
    Form,
    ServiceDep,
    media_type,
    read_body,
    read_form,
    validated,
)
from dermnote_retrieval.query.executor import Scope, SearchPlan
from dermnote_retrieval.runtime.metrics import Metrics, StepTimer
from dermnote_retrieval.service import Service

router = APIRouter(tags=["search"])


class ImageSearchFields(BaseModel):
    """The form's fields other than `image`; `filter` and `exclude` are JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(default=10, ge=1, le=MAX_K)
    via: Via = "fused"
    filter: dict[str, Any] | None = None
    exclude: Exclude = Exclude()
    distinct: Distinct | None = None


SEARCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": body_schema(SearchRequest)},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP"},
                        "k": {"type": "integer", "default": 10, "minimum": 1, "maximum": MAX_K},
                        "via": {"type": "string", "enum": ["fused", "notes", "images"], "default": "fused"},
                        "filter": {"type": "string", "description": "JSON object over the metadata"},
                        "exclude": {"type": "string", "description": 'JSON {"ids": [...], "groups": [...]}'},
                        "distinct": {"type": "string", "enum": ["note", "group"]},
                    },
                }
            },
        },
    }
}


@router.post("/search", openapi_extra=SEARCH_BODY)
async def search(request: Request, service: ServiceDep) -> SearchResponse:
    """Ranked hits for an image (form), or for exactly one of text, vector and item_id (JSON)."""
    kind = media_type(request)
    if kind in FORM_TYPES:
        async with read_form(request, known=tuple(ImageSearchFields.model_fields), service=service) as form:
            answer = await _by_image(form, service)
    elif kind == "application/json":
        body = await read_body(request, max_bytes=service.settings.max_body_bytes)
        answer = await _by_json(validated(lambda: SearchRequest.model_validate_json(body)), service)
    else:
        raise UnsupportedMedia("send multipart/form-data with an image, or application/json")
    metrics: Metrics = request.app.state.metrics
    metrics.observe_search(answer.timings_ms)
    return answer


async def _by_image(form: Form, service: Service) -> SearchResponse:
    image = form.image
    if image is None:
        raise InvalidRequest("the form has no file named image")
    values: dict[str, Any] = dict(form.fields)
    for name in ("filter", "exclude"):
        if name in values:
            values[name] = parse_json(values[name], at=name)
    scope = _scope(validated(lambda: ImageSearchFields.model_validate(values)))
    timer = StepTimer()

    def plan() -> SearchPlan:
        with timer.step("decode"):
            decoded = service.decoder.decode(image)
        return service.search.by_image(decoded, scope, timer=timer)

    return await service.search.answer(await service.workers.run(plan))


async def _by_json(request: SearchRequest, service: Service) -> SearchResponse:
    search, scope, timer = service.search, _scope(request), StepTimer()
    plans: list[Callable[[], SearchPlan]] = []
    if (text := request.text) is not None:
        plans.append(lambda: search.by_text(text, scope, timer=timer))
    if (vector := request.vector) is not None:
        plans.append(lambda: search.by_vector(vector, scope, timer=timer))
    if (item_id := request.item_id) is not None:
        plans.append(lambda: search.by_item(item_id, scope, timer=timer))
    if len(plans) != 1:
        raise InvalidRequest("give exactly one of text, vector and item_id (send an image as a form)")
    (plan,) = plans
    non_blocking = vector is not None and scope.everything  # needs no thread
    return await search.answer(plan() if non_blocking else await service.workers.run(plan))


def _scope(fields: ImageSearchFields | SearchRequest) -> Scope:
    return Scope(k=fields.k, via=fields.via, filter=fields.filter, exclude=fields.exclude, distinct=fields.distinct)
