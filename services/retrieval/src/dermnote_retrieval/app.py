"""The app and its entry point: parts from service.py, routes from api/, one problem handler from the contracts."""

import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import Depends, FastAPI

from dermnote_contracts.allowance import Allowance
from dermnote_contracts.asgi import LoopbackGuard, install_problem_handlers
from dermnote_contracts.guard import BEARER, KeyGuard, Spend
from dermnote_contracts.keys import KeyFile, KeysInvalid
from dermnote_contracts.openapi import complete_document
from dermnote_contracts.problems import DermnoteError, one_line
from dermnote_contracts.retrieval import ActivateModel, BulkOutcome, EmbedRequest, SearchRequest
from dermnote_retrieval import __version__
from dermnote_retrieval.api import index, items, models, search
from dermnote_retrieval.errors import StartRefused
from dermnote_retrieval.runtime.metrics import Metrics
from dermnote_retrieval.runtime.shutdown import CLOSING_S, DrainingServer, RejectDuringShutdown, Shutdown, end_at_once
from dermnote_retrieval.service import Service, open_service
from dermnote_retrieval.settings import Settings, read_settings

# What still runs once the drain is over is cut off.
AFTER_DRAIN_S = 1
DESCRIPTION = "Items in, ranked hits out. Errors are application/problem+json with a stable code."


def create_app(settings: Settings, *, service: Service | None = None, keys: KeyFile | None = None) -> FastAPI:
    """The retrieval service's app. Its lifespan opens the service where none is handed in, and closes it at the end.

    `keys`: the settings' key file where it is open already. Raises StartRefused where it can't be used.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = opened = service or open_service(settings)
        app.state.metrics.watch(lambda: index.index_info(opened), opened.writer.work)
        opened.begin()
        yield
        opened.close()

    app = FastAPI(title="Dermnote retrieval service", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    app.state.metrics = Metrics()
    app.state.metrics.install(app)
    app.state.shutdown = shutdown = Shutdown()
    install_problem_handlers(app)
    app.add_middleware(RejectDuringShutdown, shutdown=shutdown)
    keys = keys or open_keys(settings)
    if keys is not None:
        app.add_middleware(KeyGuard, keys=keys, spend=_spend_here())
    elif not settings.allow_unauthenticated:
        app.add_middleware(LoopbackGuard)
    for module in (items, search, models, index):
        app.include_router(module.router, dependencies=[Depends(BEARER)])
    app.include_router(index.health)
    complete_document(app, bodies=(SearchRequest, EmbedRequest, ActivateModel, BulkOutcome))
    return app


def open_keys(settings: Settings) -> KeyFile | None:
    """The key file, where there is one; raises StartRefused where it can't be used."""
    try:
        return None if settings.keys_file is None else KeyFile(settings.keys_file)
    except KeysInvalid as invalid:
        raise StartRefused(f"RETRIEVAL_KEYS_FILE: {invalid}") from invalid


def _spend_here() -> Spend:
    """Count in this process, which is the only one of the service."""
    allowance = Allowance.in_memory()

    async def spend(name: str, *, limit: int, units: int, whole: int) -> None:
        allowance.take(name, limit=limit, units=units, whole=whole)

    return spend


def main() -> None:
    """Serve until told to stop; what prevents a start is one line on stderr, exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings()
        keys = open_keys(settings)
        app = create_app(settings, service=open_service(settings), keys=keys)
    except DermnoteError as wrong:
        print(f"dermnote-retrieval: {one_line(wrong)}", file=sys.stderr)
        sys.exit(2)
    serve(app, settings)


def serve(app: FastAPI, settings: Settings, *, closing_s: float = CLOSING_S) -> None:
    """Serve an app of create_app until told to stop, then drain, and close in `closing_s`."""
    # What is loaded by now stays: without this each full collection walks through all of it, and every request waits.
    gc.collect()
    gc.freeze()
    # No access log: ids in paths are the users' own and may name patients.
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, access_log=False, timeout_graceful_shutdown=AFTER_DRAIN_S
    )
    DrainingServer(config, shutdown=app.state.shutdown, drain_s=settings.drain_s, closing_s=closing_s).run()
    if app.state.service.maintenance.busy:  # in FAISS, which must not be unloaded under it
        end_at_once(0)


if __name__ == "__main__":
    main()
