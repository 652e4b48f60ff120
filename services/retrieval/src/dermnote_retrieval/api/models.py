"""Models and the index: figures, what can be served, and moving to another model."""

from typing import Any

from fastapi import APIRouter, Request, Response

from dermnote_contracts.retrieval import ActivateModel, IndexInfo, IndexRecall, ModelSummary, RouteInfo
from dermnote_retrieval.api.body import ServiceDep, read_body, validated
from dermnote_retrieval.index.results import Recall

router = APIRouter(tags=["models"])
ACTIVATE_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": ActivateModel.model_json_schema()}}}
}


@router.get("/index")
def get_index(service: ServiceDep) -> IndexInfo:
    """Figures of the index as it serves now."""
    serving = service.catalogue.serving
    routes = {
        route: RouteInfo(
            kind=index.kind,
            dim=index.dim,
            vectors=len(index),
            memory_mib=index.bytes_ >> 20,
            recall=_recall(index.recall),
        )
        for route, index in serving.indexes.items()
    }
    manifest = serving.encoder.manifest
    return IndexInfo(items=service.items.count(), model=manifest.model_id, aligned=manifest.aligned, routes=routes)


def _recall(measured: Recall | None) -> IndexRecall | None:
    if measured is None:
        return None
    return IndexRecall(k=measured.k, queries=measured.queries, value=measured.value)


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
