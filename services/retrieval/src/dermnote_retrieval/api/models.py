"""Models and the index: figures, what can be served, and moving to another model."""

from typing import Any

from fastapi import APIRouter, Request, Response

from dermnote_contracts.retrieval import ActivateModel, IndexInfo, ModelSummary
from dermnote_http.openapi import body_schema
from dermnote_retrieval.api.forms import ServiceDep, read_body, validated
from dermnote_retrieval.api.index_info import index_info

router = APIRouter(tags=["models"])
ACTIVATE_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": body_schema(ActivateModel)}}}
}


@router.get("/index")
def get_index(service: ServiceDep) -> IndexInfo:
    """Figures of the index, the store and the queues as they are now."""
    return index_info(service)


@router.get("/models")
def list_models(service: ServiceDep) -> list[ModelSummary]:
    """The models that can be served; `reembedding` is the share done of a move to one."""
    return service.activation.models()


@router.put("/models/active", status_code=202, responses={200: {"model": ModelSummary}}, openapi_extra=ACTIVATE_BODY)
async def activate_model(request: Request, response: Response, service: ServiceDep) -> ModelSummary:
    """Move to another model in the background (202); the present one serves until that is done. 200 if it is active."""
    body = await read_body(request, max_bytes=service.settings.max_body_bytes)
    wanted = validated(lambda: ActivateModel.model_validate_json(body))
    summary = await service.workers.run(lambda: service.activation.activate(wanted.name))
    response.status_code = 200 if summary.active else 202
    return summary
