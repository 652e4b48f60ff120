"""HTTP client for both services: timeouts, retries, and problem+json responses raised as the service's own errors."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar

import httpx
import stamina
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from dermnote_contracts.notes import Health
from dermnote_contracts.problems import Unauthorized, error_from_problem
from dermnote_train.errors import UserError

BUSY = (429, 503)
CONNECTION_ERRORS = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)

Body = TypeVar("Body")


class _Busy(Exception):
    """A response after which the client should retry later."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response


class ServiceClient:
    """Connection to one service; a subclass adds one typed method per endpoint.

    `key` is sent with every request and never shown. Connection errors, 429 and 503 are retried for `patience_s`, so
    every request must be safe to repeat: a read, an upsert, or a post with an Idempotency-Key. Any method may raise
    a DermnoteError of the class that the service raised, or UserError if the service gives no usable response.
    """

    service: ClassVar[str]
    url_setting: ClassVar[str]
    key_setting: ClassVar[str]

    def __init__(self, url: str, *, key: SecretStr | None = None, patience_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.patience_s = patience_s
        try:
            self._http = httpx.Client(base_url=self.url, headers=self._authorization(key), trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise self._invalid_url() from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def health(self) -> Health:
        """The results of the readiness checks, even if some fail. Retries connection errors for two seconds only."""
        response = self._send("GET", "/health/ready", timeout_s=10.0, patience_s=min(self.patience_s, 2.0), busy=())
        body = _json(response)
        fields = body if isinstance(body, dict) else {}
        checks = fields.get("checks")
        if not isinstance(checks, dict) or not checks:
            checks = {"ready": fields.get("detail") or f"HTTP {response.status_code}"}
        return Health(
            status="ok" if response.is_success else "unavailable",
            checks={name: str(state) for name, state in checks.items()},
        )

    def require_ready(self) -> None:
        """Raise UserError unless the service is ready."""
        health = self.health()
        if health.status != "ok":
            failing = "; ".join(f"{name}: {state}" for name, state in health.checks.items() if state != "ok")
            raise UserError(f"the {self.service} at {self.url} is not ready ({failing}); check its log, then retry")

    def call(self, kind: type[Body], method: str, path: str, **options: Any) -> Body:
        """Send a request and parse the JSON response."""
        return self.parse(kind, self.request(method, path, **options).content)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        **options: Any,
    ) -> httpx.Response:
        """The successful response to a request; `body` is sent as JSON, `options` go to httpx."""
        if body is not None:
            headers = {"Content-Type": "application/json", **(headers or {})}
            options["content"] = body.model_dump_json(exclude_none=True)
        response = self._send(method, path, timeout_s=timeout_s, patience_s=self.patience_s, headers=headers, **options)
        if not response.is_success:
            self._raise_problem(response, f"{method} {path}")
        return response

    def parse(self, kind: type[Body], content: str | bytes) -> Body:
        """JSON as a model or a list of models."""
        try:
            return TypeAdapter(kind).validate_json(content)
        except ValidationError as error:
            raise UserError(
                f"{self.url} sent a response that is not a valid {getattr(kind, '__name__', kind)}; check that "
                f"this is the URL of the {self.service}, and that service and client have the same version"
            ) from error

    def parse_lines(self, kind: type[Body], content: bytes) -> list[Body]:
        """NDJSON as models. Only a line feed ends a line: JSON text may contain other line separators."""
        return [self.parse(kind, line) for line in content.split(b"\n") if line.strip()]

    def _send(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        patience_s: float,
        busy: tuple[int, ...] = BUSY,
        **options: Any,
    ) -> httpx.Response:
        try:
            for attempt in _attempts(patience_s):
                with attempt:
                    response = self._http.request(method, path, timeout=timeout_s, **options)
                    _check_busy(response, busy)
        except _Busy as error:
            return error.response
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise self._invalid_url() from error
        except httpx.RequestError as error:
            raise self._unreachable(error, f"{method} {path}", timeout_s) from error
        return response

    def _authorization(self, key: SecretStr | None) -> dict[str, str]:
        value = "" if key is None else key.get_secret_value().strip()
        if not (value.isascii() and all("!" <= character <= "~" for character in value)):
            raise UserError(f"{self.key_setting} contains characters that cannot be part of an API key; copy it again")
        return {"Authorization": f"Bearer {value}"} if value else {}

    def _invalid_url(self) -> UserError:
        return UserError(
            f"{self.url or '(empty)'}: not a URL for the {self.service}; set {self.url_setting} to http://host:port"
        )

    def _unreachable(self, error: httpx.RequestError, call: str, timeout_s: float) -> UserError:
        name = f"the {self.service} at {self.url}"
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return UserError(f"{name} did not respond to {call} within {timeout_s:g} s; check its log, then retry")
        return UserError(
            f"{name} cannot be reached ({call}: {str(error) or type(error).__name__}); start it with `make up`, or set "
            f"{self.url_setting} to its URL"
        )

    def _raise_problem(self, response: httpx.Response, call: str) -> None:
        body = _json(response)
        if not isinstance(body, dict) or "code" not in body:
            raise UserError(
                f"{self.url} answered {call} with HTTP {response.status_code} without a problem body; check that "
                f"this is the URL of the {self.service}"
            )
        error = error_from_problem(body, status=response.status_code)
        if isinstance(error, Unauthorized):
            error = Unauthorized(f"{error.detail}; set {self.key_setting} to a key of the {self.service}")
        error.retry_after_s = _retry_after_s(response)
        raise error


def _check_busy(response: httpx.Response, busy: tuple[int, ...]) -> None:
    if response.status_code in busy:
        raise _Busy(response)


def _attempts(patience_s: float) -> Iterator[stamina.Attempt]:
    """Attempts while the connection fails or the service is busy; only one if `patience_s` is 0."""

    def backoff(error: Exception) -> bool | float:
        """Whether to retry, and after how many seconds if a busy service sends Retry-After."""
        if not isinstance(error, _Busy):
            return isinstance(error, CONNECTION_ERRORS)
        delay_s = _retry_after_s(error.response)
        return True if delay_s is None else delay_s <= patience_s and float(delay_s)

    return iter(
        stamina.retry_context(
            on=backoff, attempts=None if patience_s else 1, timeout=patience_s or None, wait_jitter=0.2
        )
    )


def _retry_after_s(response: httpx.Response) -> int | None:
    header = response.headers.get("Retry-After", "")
    return int(header) if header.isdigit() else None


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
