"""What both services share at their HTTP border: one problem handler, request ids, the loopback guard.

Needs FastAPI (extra `asgi`); the door of a service that has keys is in guard.py. It logs codes and paths, never bodies.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermnote_contracts.problems import (
    PROBLEM_JSON,
    DermnoteError,
    FieldError,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TooLarge,
)

log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_FIELD_CHARS = 200


def problem_response(error: DermnoteError) -> Response:
    """The answer for an error."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = error.problem().model_dump_json(exclude_none=True)
    return Response(body, status_code=error.status, media_type=PROBLEM_JSON, headers=headers)


def field_errors(errors: Sequence[Any], *, index: int | None = None) -> list[FieldError]:
    """Pydantic's error list as ours, without the refused values; fields that contradict each other have one each."""
    return [
        FieldError(
            field=".".join(map(str, place))[:MAX_FIELD_CHARS] or "body",
            message=error["msg"],
            index=index,
            nearest=(error.get("ctx") or {}).get("nearest"),
        )
        for error in errors
        for place in _places(error)
    ]


def _places(error: Any) -> list[tuple[Any, ...]]:
    fields = (error.get("ctx") or {}).get("fields") or []
    return [(*error["loc"], field) for field in fields] or [error["loc"]]


def install_problem_handlers(app: FastAPI) -> None:
    """Render every error as problem+json, in one place."""

    @app.exception_handler(DermnoteError)
    async def known(_: Request, error: DermnoteError) -> Response:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return problem_response(InvalidRequest("see errors", errors=field_errors(error.errors())))

    @app.exception_handler(HTTPException)
    async def routing(_: Request, error: HTTPException) -> Response:
        kinds: dict[int, type[DermnoteError]] = {404: NotFound, 405: MethodNotAllowed}
        kind = kinds.get(error.status_code, InvalidRequest if error.status_code < 500 else InternalError)
        response = problem_response(kind(str(error.detail) if error.status_code < 500 else ""))
        response.headers.update(error.headers or {})  # 405 must name the methods in Allow
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, _: Exception) -> Response:
        log.exception("unexpected error in %s %s", request.method, request.scope.get("route") or "an unknown route")
        return problem_response(InternalError())


class LoopbackGuard:
    """Refuse requests whose Host or Origin is not loopback: a web page must not reach a service that has no keys."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        if _host(f"//{headers.get('host', '')}") in LOOPBACK and (origin is None or _host(origin) in LOOPBACK):
            await self.app(scope, receive, send)
        else:
            await problem_response(Forbidden("Host and Origin must be loopback"))(scope, receive, send)


class BodyLimit:
    """Answer 413 to a body over `max_bytes`: by its Content-Length before reading, or while it arrives."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = problem_response(TooLarge(f"at most {self.max_bytes} bytes"))
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            await too_large(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            return {"type": "http.disconnect"} if arrived > self.max_bytes else message

        async def guarded(message: Message) -> None:
            if arrived <= self.max_bytes:
                await send(message)

        with suppress(ClientDisconnect):  # what an app makes of a body that is cut off here
            await self.app(scope, counted, guarded)
        if arrived > self.max_bytes:
            await too_large(scope, receive, send)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
