"""The door of a service that has keys: who asks, whether the key is good, and whether its minute has room.

Needs the extra `asgi`, like the other half of the border in asgi.py. No key and no name goes into a log.
"""

from dataclasses import dataclass
from typing import Protocol

from fastapi import Request
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from dermnote_contracts.problems import DermnoteError, InvalidRequest, Unauthorized
from dermnote_http.errors import problem_response
from dermnote_http.keys import Key, KeyFile

OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json"})

BEARER = HTTPBearer(
    scheme_name="key",
    description="A key of the service. Asked for where it was started with a key file.",
    bearerFormat="dn_...",
    auto_error=False,
)
"""What the OpenAPI document says of keys: a dependency of every router whose paths are not open. It refuses nobody."""


class Spend(Protocol):
    """Counts units of a name; see Allowance.take."""

    async def __call__(self, name: str, *, limit: int, units: int, whole: int) -> None: ...


@dataclass(frozen=True)
class Caller:
    """Who asks. `name` is empty, and nothing is counted, where the service has no keys."""

    key: Key | None = None
    spend: Spend | None = None

    @property
    def name(self) -> str:
        """The name of the caller's key."""
        return "" if self.key is None else self.key.name

    async def enter(self) -> None:
        """Count the request itself: one unit. Raises TooManyRequests."""
        await self._count(1, whole=1)

    async def charge(self, units: int) -> None:
        """Count a request that is worth `units`, one of which was counted at the door, or none of the rest.

        Raises TooManyRequests, and InvalidRequest where the key's whole minute would not be enough.
        """
        limit = None if self.key is None else self.key.per_minute
        if limit is not None and units > limit:
            raise InvalidRequest(
                f"this asks for {units} units, and the key has {limit} a minute; ask for fewer at once"
            )
        if units > 1:
            await self._count(units - 1, whole=units)

    async def _count(self, units: int, *, whole: int) -> None:
        if self.key is not None and self.key.per_minute is not None and self.spend is not None:
            await self.spend(self.key.name, limit=self.key.per_minute, units=units, whole=whole)


def caller_of(request: Request) -> Caller:
    """The caller that the guard let in; nobody in particular where there is no guard."""
    caller: Caller = getattr(request.state, "caller", Caller())
    return caller


class KeyGuard:
    """Answer 401 to a request without a good key and 429 to one over its key's limit, before its body is read.

    Whoever passes is `request.state.caller`. `OPEN_PATHS` need no key.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyFile, spend: Spend) -> None:
        self.app = app
        self.keys = keys
        self.spend = spend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        try:
            caller = Caller(self._known(scope), self.spend)
            await caller.enter()
        except DermnoteError as refused:
            await problem_response(refused)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _known(self, scope: Scope) -> Key:
        token = _token(scope)
        if token is None:
            raise Unauthorized("send one header `Authorization: Bearer` with a key of this service")
        key = self.keys.find(token)
        if key is None:
            raise Unauthorized("this is no key of this service, or one that was revoked")
        return key


def _token(scope: Scope) -> bytes | None:
    given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return token.strip() or None if scheme.lower() == b"bearer" else None
