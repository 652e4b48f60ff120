"""Load generator: concurrent clients over keep-alive HTTP; each sends its next request after its response has arrived.

Works on raw bytes, because on two cores an HTTP client library would take more time than the server.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

TIMEOUT_S = 120.0
_LENGTH = re.compile(rb"content-length: *(\d+)")


@dataclass
class Load:
    """The result of a load test. `seconds`: time of each successful request until the last byte of its response.

    `bodies`: the bodies of the last successful responses.
    """

    clients: int
    wall_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    failed: int = 0

    def row(self) -> dict[str, float]:
        """Counts, queries per second, and the 50th and 99th percentile of the latency."""
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1000 if self.seconds else (0.0, 0.0)
        return {
            "clients": self.clients,
            "queries": len(self.seconds),
            "failed": self.failed,
            "queries_per_s": len(self.seconds) / self.wall_s,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
        }


def post(path: str, body: bytes, *, kind: str = "application/json", host: str) -> bytes:
    """The bytes of a POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def drive(url: str, requests: Sequence[bytes], *, clients: int, seconds: float, kept: int = 50) -> Load:
    """Send the requests in turn for `seconds`, and wait for the last responses. `kept`: response bodies to keep."""
    load = Load(clients)
    uvloop.run(_drive(url, itertools.cycle(requests), load, seconds=seconds, kept=kept))
    return load


async def _drive(url: str, requests: Iterator[bytes], load: Load, *, seconds: float, kept: int) -> None:
    parts = urlsplit(url)
    started = time.perf_counter()
    deadline = started + seconds

    async def client() -> None:
        connection: _Connection | None = None
        while time.perf_counter() < deadline:
            request, sent = next(requests), time.perf_counter()
            connection = connection or await _Connection.open(str(parts.hostname), int(parts.port or 80))
            response = await connection.send(request)
            if response.status == 200:
                load.seconds.append(time.perf_counter() - sent)
                load.bodies.append(response.body)
                del load.bodies[:-kept]
            else:
                load.failed += 1
            if response.closes:
                connection.close()
                connection = None
        if connection:
            connection.close()

    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(load.clients))), seconds + TIMEOUT_S)
    load.wall_s = time.perf_counter() - started


@dataclass(frozen=True)
class _Response:
    status: int
    body: bytes
    closes: bool


class _Connection(asyncio.Protocol):
    """One client's connection, for one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._response: asyncio.Future[_Response] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, host: str, port: int) -> "_Connection":
        """A new connection."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    async def send(self, request: bytes) -> _Response:
        """Send a request and wait for its response. Raises ConnectionError if the server closes the connection."""
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._response

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._received[:head_end]).lower()
        length = _LENGTH.search(head)
        if length is None:
            self._response.set_exception(ConnectionError(f"a response without Content-Length: {head!r}"))
            return
        end = head_end + 4 + int(length[1])
        if len(self._received) >= end:
            closes = b"connection: close" in head or head.startswith(b"http/1.0")
            status, body = int(head.split(b" ", 2)[1]), bytes(self._received[head_end + 4 : end])
            del self._received[:end]
            self._response.set_result(_Response(status, body, closes))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._response.done():
            self._response.set_exception(exc or ConnectionError("the server closed the connection"))
