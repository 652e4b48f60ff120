"""The app factory of both services, with problem+json in their OpenAPI documents."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.middleware import Middleware

from dermnote_contracts import __version__
from dermnote_contracts.problems import PROBLEM_JSON, DermnoteError, Problem, StartRefused, one_line
from dermnote_http.auth import BEARER, KeyGuard, LoopbackGuard
from dermnote_http.errors import install_problem_handlers
from dermnote_http.keys import KeyFile
from dermnote_http.logging import request_id_middleware
from dermnote_http.rate_limit import RateLimiter
from dermnote_http.settings import ServiceSettings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
_REF = "#/components/schemas/{model}"
_FASTAPI_MODELS = ("HTTPValidationError", "ValidationError")
_ERROR_RESPONSES = {"4XX": "The request is rejected; `code` gives the reason", "5XX": "The service cannot answer now"}


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

    `service`: the part of metric names after `dermnote_`. `keys`: from `open_keys`; without keys and without
    ALLOW_UNAUTHENTICATED only loopback may call. `middleware` runs after authentication; its first entry is outermost.
    `app.state.registry` is the app's own Prometheus registry, so that several apps can share a process.
    """
    guards: list[Middleware] = []
    if keys is not None:
        guards = [Middleware(KeyGuard, keys=keys, limiter=limiter)]
    elif not settings.allow_unauthenticated:
        guards = [Middleware(LoopbackGuard)]
    layers = [request_id_middleware(), *guards, *middleware]
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
    """Add the routers and /metrics, which require a key if the service has keys, and the health routes, which do not.

    `bodies`: models of the request bodies that routes parse themselves, for the OpenAPI document.
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
    """uvicorn's options for a service: its address, and no log configuration (`configure_logging` sets up logging)."""
    return {"host": settings.host, "port": settings.port, "log_config": None, **options}


def body_schema(model: type[BaseModel]) -> dict[str, str]:
    """Reference to the schema of a request body that its route parses; pass the model to `complete_document` too."""
    return {"$ref": _REF.format(model=model.__name__)}


def complete_document(app: FastAPI, *, bodies: Sequence[type[BaseModel]] = ()) -> None:
    """Document problem+json for all 4xx and 5xx answers, and add the schemas of `bodies`."""
    fastapi_document = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(fastapi_document(), bodies)
        return fastapi_document()

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _complete(document: dict[str, Any], bodies: Sequence[type[BaseModel]]) -> None:
    classes: list[type[BaseModel]] = [Problem, *bodies]
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in classes]
    _, generated = models_json_schema(models, ref_template=_REF)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _FASTAPI_MODELS:
        schemas.pop(name, None)
    for name, schema in generated["$defs"].items():
        schemas.setdefault(name, schema)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"] |= {
                status: {"description": meaning, "content": {PROBLEM_JSON: {"schema": body_schema(Problem)}}}
                for status, meaning in _ERROR_RESPONSES.items()
            }
