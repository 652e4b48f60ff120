"""Models and the index: figures, what can be served, and moving to another model."""

from fastapi import APIRouter, Response

from dermnote_contracts.retrieval import ActivateModel, IndexInfo, ModelSummary, RouteInfo
from dermnote_retrieval.api.body import ServiceDep

router = APIRouter(tags=["models"])


@router.get("/index")
def get_index(service: ServiceDep) -> IndexInfo:
    """Figures of the index as it serves now."""
    serving = service.catalogue.serving
    routes = {
        route: RouteInfo(kind=index.kind, dim=index.dim, vectors=len(index)) for route, index in serving.indexes.items()
    }
    manifest = serving.encoder.manifest
    return IndexInfo(items=service.items.count(), model=manifest.name, aligned=manifest.aligned, routes=routes)


@router.get("/models")
def list_models(service: ServiceDep) -> list[ModelSummary]:
    """The models that can be served; `reembedding` is the share done of a move to one."""
    return service.activation.models()


@router.put("/models/active", status_code=202, responses={200: {"model": ModelSummary}})
def activate_model(wanted: ActivateModel, response: Response, service: ServiceDep) -> ModelSummary:
    """Move to another model in the background (202); the present one serves until that is done. 200 if it is active."""
    summary = service.activation.activate(wanted.name)
    response.status_code = 200 if summary.active else 202
    return summary
