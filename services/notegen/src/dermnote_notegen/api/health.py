"""Liveness (the process answers) and readiness (Redis answers, a worker is alive, the model is loaded)."""

from fastapi import APIRouter, Response

from dermnote_contracts.notes import Health
from dermnote_notegen.api.dependencies import JobsHere

router = APIRouter(tags=["health"], prefix="/health")


@router.get("/live")
def live() -> Health:
    """Always ok while the process answers."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Health}})
def ready(response: Response, jobs: JobsHere) -> Health:
    """503 until notes can be written; the checks say what is missing."""
    checks = jobs.checks()
    fine = all(result == "ok" for result in checks.values())
    response.status_code = 200 if fine else 503
    return Health(status="ok" if fine else "unavailable", checks=checks)
