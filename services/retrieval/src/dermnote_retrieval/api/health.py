"""Is the process there, and can it serve?"""

from fastapi import APIRouter, Request, Response

from dermnote_contracts.notes import Health
from dermnote_contracts.problems import Stopping
from dermnote_retrieval.api.forms import ServiceDep

router = APIRouter(prefix="/health", tags=["service"])


@router.get("/live")
async def live() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Health}})
def ready(request: Request, response: Response, service: ServiceDep) -> Health:
    """The store is open, the encoder is loaded, and store and index hold the same number of vectors; else 503.

    503 too from the moment that the process is told to stop.
    """
    if request.app.state.draining.on:
        response.status_code = 503
        return Health(status="unavailable", checks={"serving": Stopping.code})
    agree = service.catalogue.consistent()
    response.status_code = 200 if agree else 503
    checks = {"store": "ok", "encoder": "ok", "index": "ok" if agree else "does not hold what the store holds"}
    return Health(status="ok" if agree else "unavailable", checks=checks)
