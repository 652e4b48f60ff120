"""Every error rendered as problem+json, in one place. Logs codes and routes, never bodies."""

import logging
from contextlib import suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermnote_contracts.problems import (
    PROBLEM_JSON,
    DermnoteError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    field_errors,
)

log = logging.getLogger(__name__)


def problem_response(error: DermnoteError) -> Response:
    """The HTTP answer for an error."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = error.problem().model_dump_json(exclude_none=True)
    return Response(body, status_code=error.status, media_type=PROBLEM_JSON, headers=headers)


def install_problem_handlers(app: FastAPI) -> None:
    """Make the app answer every error with problem+json."""

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


class BodyLimit:
    """Middleware: 413 for a body over `max_bytes`, by Content-Length before it is read, or by size as it arrives."""

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
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > self.max_bytes else message

        async def guarded(message: Message) -> None:
            if received <= self.max_bytes:
                await send(message)

        with suppress(ClientDisconnect):  # raised in the app when `counted` cuts off the body
            await self.app(scope, counted, guarded)
        if received > self.max_bytes:
            await too_large(scope, receive, send)
