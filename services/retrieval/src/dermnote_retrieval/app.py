"""The FastAPI app, assembled from the parts in service.py and the routes in api/, and the program's entry point."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from dermnote_contracts.retrieval import ActivateModel, BulkOutcome, EmbedRequest, SearchRequest
from dermnote_http.app import add_routes, base_app, start_errors, uvicorn_options
from dermnote_http.auth import open_keys
from dermnote_http.keys import KeyFile
from dermnote_http.logging import configure_logging
from dermnote_http.rate_limit import RateLimiter
from dermnote_http.settings import read_settings
from dermnote_retrieval.api import index, items, models, search
from dermnote_retrieval.runtime.metrics import Metrics
from dermnote_retrieval.runtime.shutdown import CLOSING_S, DrainingServer, RejectDuringShutdown, Shutdown, end_at_once
from dermnote_retrieval.service import Service, open_service
from dermnote_retrieval.settings import Settings

# Requests that still run this long after the drain are cancelled.
AFTER_DRAIN_S = 1
DESCRIPTION = "Stores items and ranks them for a query. Errors are application/problem+json with a stable code."


def create_app(settings: Settings, *, service: Service | None = None, keys: KeyFile | None = None) -> FastAPI:
    """The retrieval service's app. Raises StartRefused.

    `service`: an open service; without it, the app opens one when it starts. The app closes either at shutdown.
    `keys`: the key file, if the caller has opened it already.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = opened = service or open_service(settings)
        app.state.metrics.watch(lambda: index.index_info(opened), opened.writer.work)
        opened.begin()
        yield
        opened.close()

    shutdown = Shutdown()
    app = base_app(
        settings,
        service="retrieval",
        title="Dermnote retrieval service",
        description=DESCRIPTION,
        keys=keys or open_keys(settings),
        limiter=RateLimiter.in_memory(),
        middleware=[Middleware(RejectDuringShutdown, shutdown=shutdown)],
        lifespan=lifespan,
    )
    app.state.metrics = Metrics(app.state.registry)
    app.state.shutdown = shutdown
    routers = [module.router for module in (items, search, models, index)]
    add_routes(app, routers, health=index.health, bodies=(SearchRequest, EmbedRequest, ActivateModel, BulkOutcome))
    return app


def main() -> None:
    """Serve until a signal stops the process."""
    with start_errors("dermnote-retrieval"):
        settings = read_settings(Settings)
        configure_logging(settings.log_format)
        keys = open_keys(settings)
        app = create_app(settings, service=open_service(settings), keys=keys)
    serve(app, settings)


def serve(app: FastAPI, settings: Settings, *, closing_s: float = CLOSING_S) -> None:
    """Serve an app that create_app returned until a signal arrives, then drain it and close it within `closing_s`."""
    # Without this, each full garbage collection walks through everything loaded so far while all requests wait.
    gc.collect()
    gc.freeze()
    # No access log: the ids in paths are the users' own and may name patients.
    options = uvicorn_options(settings, access_log=False, timeout_graceful_shutdown=AFTER_DRAIN_S)
    config = uvicorn.Config(app, **options)
    DrainingServer(config, shutdown=app.state.shutdown, drain_s=settings.drain_s, closing_s=closing_s).run()
    if app.state.service.maintenance.busy:  # a thread still runs FAISS, which a normal exit would unload
        end_at_once(0)
