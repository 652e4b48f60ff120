"""Is the process there, and can it serve?"""

from fastapi import APIRouter, Response

from dermnote_contracts.notes import Health
from dermnote_retrieval.api.body import ServiceDep

router = APIRouter(prefix="/health", tags=["service"])


@router.get("/live")
async def live() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Health}})
def ready(response: Response, service: ServiceDep) -> Health:
    """The store is open, the encoder is loaded, and store and index hold the same number of vectors; else 503."""
    agree = service.catalogue.consistent()
    response.status_code = 200 if agree else 503
    checks = {"store": "ok", "encoder": "ok", "index": "ok" if agree else "does not hold what the store holds"}
    return Health(status="ok" if agree else "unavailable", checks=checks)
