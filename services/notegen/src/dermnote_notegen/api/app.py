"""The API process: app factory and entry point. Needs Redis, but no language model."""

import uvicorn
from fastapi import FastAPI
from redis import Redis
from starlette.middleware import Middleware

from dermnote_http.app import add_routes, base_app, start_errors, uvicorn_options
from dermnote_http.auth import open_keys
from dermnote_http.errors import BodyLimit
from dermnote_http.logging import configure_logging
from dermnote_http.rate_limit import RateLimiter
from dermnote_http.settings import read_settings
from dermnote_notegen.api import batches, catalogue, notes
from dermnote_notegen.api.jobs import Jobs, queue_errors
from dermnote_notegen.queue.redis import connect
from dermnote_notegen.settings import Settings
from dermnote_notegen.writing.priors import load_priors

DESCRIPTION = "Lesion metadata in, verified clinical notes out. Errors are application/problem+json with a stable code."
RATE_LIMIT_PREFIX = "notegen:used"


def create_app(settings: Settings, *, redis: Redis | None = None) -> FastAPI:
    """The note service's app. Raises StartRefused. `redis`: the client, by default one that connects at first use."""
    keys = open_keys(settings)
    redis = redis or connect(settings)
    app = base_app(
        settings,
        service="notegen",
        title="Dermnote note service",
        description=DESCRIPTION,
        keys=keys,
        limiter=RateLimiter.in_redis(redis.connection_pool, prefix=RATE_LIMIT_PREFIX, errors=queue_errors),
        middleware=[Middleware(BodyLimit, max_bytes=settings.max_body_bytes)],
    )
    app.state.jobs = jobs = Jobs(redis, settings)
    app.state.priors = load_priors(settings.priors_dir)
    app.state.registry.register(jobs)
    add_routes(app, [notes.router, batches.router, catalogue.router], health=catalogue.health)
    return app


def main() -> None:
    """Serve until a signal stops the process."""
    with start_errors("dermnote-notegen"):
        settings = read_settings(Settings)
        app = create_app(settings)
    configure_logging(settings.log_format)
    uvicorn.run(app, **uvicorn_options(settings))
