"""Asking a service everything that its committed OpenAPI document allows and forbids."""

from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.testclient import TestClient

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
DOCUMENTS = Path(__file__).parents[1] / "docs/openapi"
# The same few cases at every run.
few = settings(max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@schemathesis.serializer("application/x-tar", "application/x-ndjson")
def as_it_is(_: Any, body: Any) -> bytes:
    """Bodies that the document only calls strings."""
    return body if isinstance(body, bytes) else str(body).encode("utf-8", "surrogatepass")


def document(name: str) -> Any:
    """A service's committed OpenAPI document; another test compares it with the service."""
    return schemathesis.openapi.from_path(DOCUMENTS / f"{name}.json")


def check(case: Any, client: TestClient) -> None:
    """Ask, and hold the answer against the document."""
    prepared: Any = requests.Request(**case.as_transport_kwargs(base_url=str(client.base_url))).prepare()
    answer = client.request(prepared.method, prepared.url, content=prepared.body, headers=dict(prepared.headers))
    case.validate_response(answer, checks=CHECKS)
