"""The API process: settings in, app out. It can't import llama_cpp and needs no model."""

import sys
from ipaddress import ip_address

import uvicorn
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import Depends, FastAPI
from redis import Redis

from dermnote_contracts.asgi import BodyLimit, LoopbackGuard, install_problem_handlers
from dermnote_contracts.guard import BEARER, KeyGuard
from dermnote_contracts.keys import KeyFile, KeysInvalid
from dermnote_contracts.openapi import complete_document
from dermnote_notegen import __version__
from dermnote_notegen.api import batches, catalogue, metrics, notes
from dermnote_notegen.api.jobs import Jobs
from dermnote_notegen.api.rate_limit import spend_in
from dermnote_notegen.queue.redis import PasswordUnreadable, connect
from dermnote_notegen.settings import Settings
from dermnote_notegen.writing.priors import PriorsInvalid, load_priors

DESCRIPTION = "Lesion metadata in, verified clinical notes out. Errors are application/problem+json with a stable code."


class UnsafeBinding(Exception):
    """Listening beyond loopback without keys was not asked for in so many words."""


def create_app(settings: Settings, *, redis: Redis | None = None) -> FastAPI:
    """The note service's app. `redis` may be handed in; otherwise it is connected to lazily."""
    keys = _open_keys(settings)
    if keys is None and not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise UnsafeBinding(
            f"NOTEGEN_HOST={settings.host} would serve notes without a key; "
            "set NOTEGEN_KEYS_FILE, bind 127.0.0.1, or set ALLOW_UNAUTHENTICATED=1 if the network is trusted"
        )
    redis = redis or connect(settings)
    app = FastAPI(title="Dermnote note service", version=__version__, description=DESCRIPTION)
    app.state.jobs = Jobs(redis, settings)
    app.state.priors = load_priors(settings.priors_dir)
    install_problem_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if keys is not None:
        app.add_middleware(KeyGuard, keys=keys, spend=spend_in(redis))
    elif not settings.allow_unauthenticated:
        app.add_middleware(LoopbackGuard)
    app.add_middleware(CorrelationIdMiddleware)
    for router in (notes.router, batches.router, catalogue.router):
        app.include_router(router, dependencies=[Depends(BEARER)])
    app.include_router(catalogue.health)
    metrics.install(app, app.state.jobs)
    complete_document(app)
    return app


def _open_keys(settings: Settings) -> KeyFile | None:
    try:
        return None if settings.keys_file is None else KeyFile(settings.keys_file)
    except KeysInvalid as invalid:
        raise KeysInvalid(f"NOTEGEN_KEYS_FILE: {invalid}") from invalid


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
    except (UnsafeBinding, KeysInvalid, PasswordUnreadable, PriorsInvalid) as error:
        sys.exit(f"dermnote-notegen: {error}")
    uvicorn.run(app, host=settings.host, port=settings.port)
