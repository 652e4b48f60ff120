"""The API process: settings in, app out. It can't import llama_cpp and needs no model."""

import sys
from ipaddress import ip_address

import uvicorn
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator
from redis import Redis

from dermnote_contracts.asgi import BodyLimit, LoopbackGuard, install_problem_handlers
from dermnote_notegen import __version__
from dermnote_notegen.api import batches, catalogue, health, notes
from dermnote_notegen.jobs import Jobs
from dermnote_notegen.priors import PriorsInvalid, load_priors
from dermnote_notegen.settings import Settings

DESCRIPTION = "Lesion metadata in, verified clinical notes out. Errors are application/problem+json with a stable code."


class UnsafeBinding(Exception):
    """Listening beyond loopback without keys was not asked for in so many words."""


def create_app(settings: Settings, *, redis: Redis | None = None) -> FastAPI:
    """The note service's app. `redis` may be handed in; otherwise it is connected to lazily."""
    if not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise UnsafeBinding(
            f"NOTEGEN_HOST={settings.host} would serve notes without a key; "
            "bind 127.0.0.1, or set ALLOW_UNAUTHENTICATED=1 if the network is trusted"
        )
    app = FastAPI(title="Dermnote note service", version=__version__, description=DESCRIPTION)
    app.state.jobs = Jobs(redis or Redis.from_url(settings.redis_url), settings)
    app.state.priors = load_priors(settings.priors_dir)
    install_problem_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if not settings.allow_unauthenticated:
        app.add_middleware(LoopbackGuard)
    app.add_middleware(CorrelationIdMiddleware)
    for router in (notes.router, batches.router, catalogue.router, health.router):
        app.include_router(router)
    Instrumentator(excluded_handlers=["/metrics", "/health/.*"]).instrument(app).expose(app)
    return app


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    """Serve until told to stop."""
    settings = Settings()
    try:
        app = create_app(settings)
    except (UnsafeBinding, PriorsInvalid) as error:
        sys.exit(f"dermnote-notegen: {error}")
    uvicorn.run(app, host=settings.host, port=settings.port)
