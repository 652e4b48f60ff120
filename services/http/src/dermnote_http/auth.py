"""Authentication: API keys with rate limits or, without keys, loopback only. Logs neither keys nor their names."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from dermnote_contracts.problems import DermnoteError, Forbidden, InvalidRequest, StartRefused, Unauthorized
from dermnote_http.errors import problem_response
from dermnote_http.keys import Key, KeyFile, KeysInvalid
from dermnote_http.rate_limit import RateLimiter
from dermnote_http.settings import ServiceSettings

OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json"})

BEARER = HTTPBearer(
    scheme_name="key",
    description="An API key. Required if the service was started with a key file.",
    bearerFormat="dn_...",
    auto_error=False,
)
"""Dependency of every router that requires a key. It only documents API keys in OpenAPI; KeyGuard verifies them."""


def is_loopback(host: str) -> bool:
    """True for localhost and for every loopback address (127.0.0.0/8, ::1)."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_keys(settings: ServiceSettings) -> KeyFile | None:
    """The configured key file; None if the service runs without keys.

    Raises StartRefused for a file that can't be used, and for a host beyond loopback without keys unless
    ALLOW_UNAUTHENTICATED is set.
    """
    variable = f"{settings.model_config.get('env_prefix', '')}KEYS_FILE"
    if settings.keys_file is not None:
        try:
            return KeyFile(settings.keys_file)
        except KeysInvalid as error:
            raise StartRefused(f"{variable}: {error}") from error
    if not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise StartRefused(
            f"host {settings.host} is reachable from other machines and no API keys are configured: set {variable}, "
            "listen on 127.0.0.1, or set ALLOW_UNAUTHENTICATED=1 if the network is trusted"
        )
    return None


@dataclass(frozen=True)
class Caller:
    """The sender of a request. In a service without keys, `name` is empty and nothing is counted."""

    key: Key | None = None
    limiter: RateLimiter | None = None

    @property
    def name(self) -> str:
        """The name of the caller's key."""
        return "" if self.key is None else self.key.name

    async def enter(self) -> None:
        """Count the request itself as one unit. Raises TooManyRequests."""
        await self._count(1, whole=1)

    async def charge(self, units: int) -> None:
        """Count the rest of a request of `units`, of which `enter` has counted one: all of the rest or nothing.

        Raises TooManyRequests, and InvalidRequest if the key's limit per minute is smaller than `units`.
        """
        limit = None if self.key is None else self.key.per_minute
        if limit is not None and units > limit:
            raise InvalidRequest(
                f"the request needs {units} units, but the key allows only {limit} per minute; split the request"
            )
        if units > 1:
            await self._count(units - 1, whole=units)

    async def _count(self, units: int, *, whole: int) -> None:
        if self.key is not None and self.key.per_minute is not None and self.limiter is not None:
            await self.limiter.spend(self.key.name, limit=self.key.per_minute, units=units, whole=whole)


def caller_of(request: Request) -> Caller:
    """The caller that KeyGuard has authenticated; an anonymous one in a service without keys."""
    caller: Caller = getattr(request.state, "caller", Caller())
    return caller


class KeyGuard:
    """Middleware: 401 without a valid key, 429 over the key's limit, both before the body is read.

    Sets `request.state.caller`. `OPEN_PATHS` need no key.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyFile, limiter: RateLimiter) -> None:
        self.app = app
        self.keys = keys
        self.limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        try:
            caller = Caller(self._key(scope), self.limiter)
            await caller.enter()
        except DermnoteError as error:
            await problem_response(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _key(self, scope: Scope) -> Key:
        token = _token(scope)
        if token is None:
            raise Unauthorized("send one header `Authorization: Bearer` with an API key of this service")
        key = self.keys.find(token)
        if key is None:
            raise Unauthorized("the API key is not valid here, or was revoked")
        return key


def _token(scope: Scope) -> bytes | None:
    values = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return token.strip() or None if scheme.lower() == b"bearer" else None


class LoopbackGuard:
    """Middleware: 403 unless Host and Origin are loopback, so that no web page can reach a service without keys."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
        origin = headers.get(b"origin")
        trusted = _is_local(f"//{headers.get(b'host', '')}") and (origin is None or _is_local(origin))
        if scope["type"] != "http" or trusted:
            await self.app(scope, receive, send)
        else:
            await problem_response(Forbidden("Host and Origin must be loopback"))(scope, receive, send)


def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
