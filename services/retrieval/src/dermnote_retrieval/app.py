"""The app and its entry point: parts from service.py, routes from api/, one problem handler from the contracts."""

import logging
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from PIL import Image

from dermnote_contracts.asgi import LoopbackGuard, install_problem_handlers
from dermnote_contracts.problems import DermnoteError, one_line
from dermnote_retrieval import __version__
from dermnote_retrieval.api import embed, health, items, models, search, snapshots
from dermnote_retrieval.metrics import Metrics
from dermnote_retrieval.service import Service, open_service
from dermnote_retrieval.settings import Settings, read_settings

DESCRIPTION = "Items in, ranked hits out. Errors are application/problem+json with a stable code."


def create_app(settings: Settings, *, service: Service | None = None) -> FastAPI:
    """The retrieval service's app. Its lifespan opens the service where none is handed in, and closes it at the end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = opened = service or open_service(settings)
        app.state.metrics.watch_items(opened.items.count)
        opened.begin()
        yield
        opened.close()

    app = FastAPI(title="Dermnote retrieval service", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    app.state.metrics = Metrics()
    app.state.metrics.install(app)
    install_problem_handlers(app)
    if not settings.allow_unauthenticated:
        app.add_middleware(LoopbackGuard)
    for module in (items, search, embed, models, snapshots, health):
        app.include_router(module.router)
    return app


def main() -> None:
    """Serve until told to stop; what prevents a start is one line on stderr, exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        settings = read_settings()
        service = open_service(settings)
    except DermnoteError as wrong:
        print(f"dermnote-retrieval: {one_line(wrong)}", file=sys.stderr)
        sys.exit(2)
    # No access log: ids in paths are the users' own and may name patients.
    uvicorn.run(create_app(settings, service=service), host=settings.host, port=settings.port, access_log=False)


if __name__ == "__main__":
    main()
