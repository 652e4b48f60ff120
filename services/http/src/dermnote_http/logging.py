"""One log format for all programs: time, level, logger, request id and message, as text or as JSON lines."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from asgi_correlation_id import CorrelationIdFilter, CorrelationIdMiddleware
from asgi_correlation_id.context import correlation_id
from pythonjsonlogger.json import JsonFormatter
from starlette.middleware import Middleware

REQUEST_ID_HEADER = "X-Request-ID"
TEXT = "%(asctime)s %(levelname)s %(name)s [%(correlation_id)s] %(message)s"
JSON_FIELDS = {"asctime": "time", "levelname": "level", "name": "logger", "correlation_id": "request_id"}
# A UUID with or without dashes. An id of any other form is replaced, so that no client can write free text into logs.
REQUEST_ID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.IGNORECASE)


def configure_logging(log_format: Literal["text", "json"] = "text") -> None:
    """Send all log records of this process to stderr in the common format, replacing earlier handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(CorrelationIdFilter(default_value="-"))
    as_json = log_format == "json"
    handler.setFormatter(JsonFormatter(TEXT, rename_fields=JSON_FIELDS) if as_json else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("httpx", "httpcore"):  # at level INFO they log every request sent to the engine
        logging.getLogger(name).setLevel(logging.WARNING)


def request_id_middleware() -> Middleware:
    """Middleware that takes a request's id from `X-Request-ID` or generates it, and returns it in the response."""
    return Middleware(CorrelationIdMiddleware, header_name=REQUEST_ID_HEADER, validator=_is_request_id)


def _is_request_id(value: str) -> bool:
    return REQUEST_ID.fullmatch(value) is not None


def request_id() -> str | None:
    """The id of the current request; None outside a request."""
    return correlation_id.get()


@contextmanager
def request_id_scope(value: str | None) -> Iterator[None]:
    """Run a block under the request id `value`, which its log lines then contain."""
    token = correlation_id.set(value)
    try:
        yield
    finally:
        correlation_id.reset(token)
