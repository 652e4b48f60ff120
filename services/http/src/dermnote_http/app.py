"""The app factory of both services, and the loop that serves an app."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel
from starlette.middleware import Middleware

from dermnote_contracts import __version__
from dermnote_contracts.problems import DermnoteError, StartRefused, one_line
from dermnote_http.auth import BEARER, KeyGuard, LoopbackGuard
from dermnote_http.errors import install_problem_handlers
from dermnote_http.keys import KeyFile
from dermnote_http.openapi import complete_document
from dermnote_http.rate_limit import RateLimiter
from dermnote_http.settings import ServiceSettings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def base_app(
    settings: ServiceSettings,
    *,
    service: str,
    title: str,
    description: str,
    keys: KeyFile | None,
    limiter: RateLimiter,
    middleware: Sequence[Middleware] = (),
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """An app with problem+json errors, authentication, request ids and /metrics; `add_routes` completes it.

    `service`: the part of metric names after `dermnote_`. `keys`: from `open_keys`; without them and without
    ALLOW_UNAUTHENTICATED only loopback may call. `middleware` runs inside authentication, the first outermost.
    `app.state.registry` is the app's own Prometheus registry, so that several apps can share a process.
    """
    guards: list[Middleware] = []
    if keys is not None:
        guards = [Middleware(KeyGuard, keys=keys, limiter=limiter)]
    elif not settings.allow_unauthenticated:
        guards = [Middleware(LoopbackGuard)]
    layers = [Middleware(CorrelationIdMiddleware), *guards, *middleware]
    app = FastAPI(title=title, version=__version__, description=description, lifespan=lifespan, middleware=layers)
    install_problem_handlers(app)
    app.state.registry = registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    instrumentator = Instrumentator(excluded_handlers=["/metrics", "/health/.*"], registry=registry)
    app.state.instrumentator = instrumentator.instrument(app, metric_namespace="dermnote", metric_subsystem=service)
    return app


def add_routes(
    app: FastAPI, routers: Sequence[APIRouter], *, health: APIRouter, bodies: Sequence[type[BaseModel]] = ()
) -> None:
    """Add the routers, which need a key where there are keys, the open health routes, and /metrics.

    `bodies`: models of the bodies that routes parse themselves, for the OpenAPI document.
    """
    for router in routers:
        app.include_router(router, dependencies=[Depends(BEARER)])
    app.include_router(health)
    app.state.instrumentator.expose(
        app, tags=["service"], response_class=PlainTextResponse, dependencies=[Depends(BEARER)]
    )
    complete_document(app, bodies=bodies)


@contextmanager
def start_errors(program: str) -> Iterator[None]:
    """End the program with one line on stderr and exit code 2 if it cannot start."""
    try:
        yield
    except DermnoteError as error:
        detail = error.detail if isinstance(error, StartRefused) else one_line(error)
        print(f"{program}: cannot start: {detail}", file=sys.stderr)
        sys.exit(2)


def uvicorn_options(settings: ServiceSettings, **options: Any) -> dict[str, Any]:
    """uvicorn's options for a service: its address, and no log configuration, which `configure_logging` sets up."""
    return {"host": settings.host, "port": settings.port, "log_config": None, **options}
