"""HTTP with one service: deadlines, retries, and problem+json raised as the class that the service raised."""

from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar

import httpx
import stamina
from pydantic import BaseModel, SecretStr, ValidationError

from dermnote_contracts.notes import Health
from dermnote_contracts.problems import Unauthorized, error_from_problem
from dermnote_train.errors import UserError

BUSY = (429, 503)
CONNECTION_ERRORS = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)

Body = TypeVar("Body", bound=BaseModel)


class _Busy(Exception):
    """An answer that asks to come back later."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response


class Session:
    """A connection to one service. `patience_s`: how long connection errors, 429 and 503 are tried again; `variable`
    and `key_variable`: the settings that hold the URL and the API key. `key`: sent with every request; never shown.

    Only requests that may safely arrive twice go through it: reads, upserts, and posts with an Idempotency-Key.
    """

    def __init__(
        self,
        base_url: str,
        *,
        service: str,
        variable: str,
        key_variable: str,
        key: SecretStr | None = None,
        patience_s: float = 60.0,
    ) -> None:
        self.service = service
        self.variable = variable
        self.key_variable = key_variable
        self.base_url = base_url.rstrip("/")
        self.patience_s = patience_s
        try:
            self._client = httpx.Client(
                base_url=self.base_url, headers=self._authorization(key), follow_redirects=False, trust_env=False
            )
        except (httpx.InvalidURL, ValueError) as wrong:
            raise self._unreachable(httpx.InvalidURL(str(wrong)), "", 0) from wrong

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float = 30.0,
        patience_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """A successful answer. Raises DermnoteError (as the service did) or UserError (down, silent, not ours)."""
        try:
            for attempt in _attempts(self.patience_s if patience_s is None else patience_s):
                with attempt:
                    response = _not_busy(self._client.request(method, path, timeout=timeout_s, headers=headers, **body))
        except _Busy as busy:
            response = busy.response
        except (httpx.RequestError, httpx.InvalidURL) as wrong:
            raise self._unreachable(wrong, f"{method} {path}", timeout_s) from wrong
        return self._checked(response, f"{method} {path}")

    def _authorization(self, key: SecretStr | None) -> dict[str, str]:
        told = "" if key is None else key.get_secret_value().strip()
        if not (told.isascii() and all("!" <= sign <= "~" for sign in told)):
            raise UserError(f"{self.key_variable} holds signs that no key has; copy the key anew")
        return {"Authorization": f"Bearer {told}"} if told else {}

    def _unreachable(self, error: Exception, call: str, timeout_s: float) -> UserError:
        where = f"the {self.service} at {self.base_url}"
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
            return UserError(
                f"{self.base_url}: not a URL for the {self.service}; set {self.variable} to http://host:port"
            )
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return UserError(f"{where} gave no answer to {call} within {timeout_s:g} s; look at its log and try again")
        return UserError(
            f"{where} cannot be reached ({call}: {str(error) or type(error).__name__}); start it with `make up`, or "
            f"set {self.variable} to where it runs"
        )

    def _checked(self, response: httpx.Response, call: str) -> httpx.Response:
        if response.is_success:
            return response
        body = _json(response)
        if not isinstance(body, dict) or "code" not in body:
            raise UserError(
                f"{self.base_url} answered {call} with HTTP {response.status_code} and no problem body; is that the "
                f"{self.service}?"
            )
        error = error_from_problem(body, status=response.status_code)
        if isinstance(error, Unauthorized):
            error = Unauthorized(f"{error.detail}; set {self.key_variable} to a key of the {self.service}")
        error.retry_after_s = _seconds(response.headers.get("Retry-After"))
        raise error

    def parse(self, kind: type[Body], content: str | bytes) -> Body:
        """An answer's JSON as a contract's model. Raises UserError if it is something else."""
        try:
            return kind.model_validate_json(content)
        except ValidationError as wrong:
            raise UserError(
                f"{self.base_url} answered with something that is no {kind.__name__}; is that the {self.service}, "
                "and of this version?"
            ) from wrong

    def parse_lines(self, kind: type[Body], content: bytes) -> list[Body]:
        """An NDJSON answer as models. Lines end at a line feed alone: JSON text may hold what else breaks lines."""
        return [self.parse(kind, line) for line in content.split(b"\n") if line.strip()]

    def get(self, kind: type[Body], path: str, **options: Any) -> Body:
        """GET a model."""
        return self.parse(kind, self.request("GET", path, **options).content)

    def get_list(self, kind: type[Body], path: str) -> list[Body]:
        """GET a JSON array of models."""
        answer = _json(self.request("GET", path))
        if not isinstance(answer, list):
            raise UserError(f"{self.base_url} answered GET {path} with no list; is that the {self.service}?")
        return [self._one(kind, entry) for entry in answer]

    def _one(self, kind: type[Body], entry: object) -> Body:
        try:
            return kind.model_validate(entry)
        except ValidationError as wrong:
            raise UserError(
                f"{self.base_url}: no {kind.__name__}; is it the {self.service} of this version?"
            ) from wrong

    def health(self) -> Health:
        """Readiness, tried for a moment only: "unavailable" is an answer, being down is a UserError."""
        try:
            for attempt in _attempts(min(self.patience_s, 2.0)):
                with attempt:
                    response = self._client.get("/health/ready", timeout=10.0)
        except (httpx.RequestError, httpx.InvalidURL) as wrong:
            raise self._unreachable(wrong, "GET /health/ready", 10.0) from wrong
        return _health(response)

    def require_ready(self) -> None:
        """Raise UserError unless the service is up and ready."""
        health = self.health()
        if health.status != "ok":
            failing = "; ".join(f"{name}: {state}" for name, state in health.checks.items() if state != "ok")
            raise UserError(
                f"the {self.service} at {self.base_url} is not ready ({failing}); see its log, then try again"
            )


def _health(response: httpx.Response) -> Health:
    """A readiness answer as Health: the status code decides, the body names the checks."""
    body = _json(response)
    told = body if isinstance(body, dict) else {}
    checks = told.get("checks")
    if not isinstance(checks, dict) or not checks:
        checks = {"ready": told.get("detail") or f"HTTP {response.status_code}"}
    return Health(
        status="ok" if response.is_success else "unavailable",
        checks={name: str(state) for name, state in checks.items()},
    )


def _attempts(patience_s: float) -> Iterator[stamina.Attempt]:
    """Tries while the connection fails or the service is busy; the first one alone where there is no patience."""

    def backoff(error: Exception) -> bool | float:
        """Whether to try again, and for a busy answer with Retry-After, in how many seconds."""
        if not isinstance(error, _Busy):
            return isinstance(error, CONNECTION_ERRORS)
        asked = _seconds(error.response.headers.get("Retry-After"))
        return True if asked is None else asked <= patience_s and float(asked)

    return iter(
        stamina.retry_context(
            on=backoff, attempts=None if patience_s else 1, timeout=patience_s or None, wait_jitter=0.2
        )
    )


def _seconds(header: str | None) -> int | None:
    return int(header) if header is not None and header.isdigit() else None


def _not_busy(response: httpx.Response) -> httpx.Response:
    if response.status_code in BUSY:
        raise _Busy(response)
    return response


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
