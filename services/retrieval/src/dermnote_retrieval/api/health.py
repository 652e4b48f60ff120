"""Is the process there, and can it serve?"""

from fastapi import APIRouter

from dermnote_contracts.problems import Unavailable
from dermnote_retrieval.api.body import ServiceDep

router = APIRouter(prefix="/health", tags=["service"])


@router.get("/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get("/ready")
def ready(service: ServiceDep) -> dict[str, str]:
    """The store is open, the encoder is loaded, and store and index hold the same number of vectors; else 503."""
    if not service.catalogue.consistent():
        raise Unavailable("store and index do not agree; restart the service", retry_after_s=5)
    return {"status": "ready", "model": service.catalogue.serving.encoder.manifest.name}
