"""Many clients that ask one server over keep-alive HTTP, each for its next request as soon as it has its answer.

Written down to the bytes: on two cores a comfortable client would take more time than the server.
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
    """What came of it. `seconds`: each answered request's, from the first byte sent to the last received.

    `bodies`: of the last answers, when everything has long been warm.
    """

    clients: int
    wall_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    failed: int = 0

    def row(self) -> dict[str, float]:
        """Queries a second, and milliseconds that half and all but a hundredth took at most."""
        half, most = np.percentile(self.seconds, [50, 99]) * 1000 if self.seconds else (0.0, 0.0)
        return {
            "clients": self.clients,
            "queries": len(self.seconds),
            "failed": self.failed,
            "queries_per_s": len(self.seconds) / self.wall_s,
            "p50_ms": float(half),
            "p99_ms": float(most),
        }


def post(path: str, body: bytes, *, kind: str = "application/json", host: str) -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def drive(url: str, requests: Sequence[bytes], *, clients: int, seconds: float, kept: int = 50) -> Load:
    """Ask for so long, with requests in turns; the last answers are waited for. `kept`: bodies to look into."""
    load = Load(clients)
    uvloop.run(_drive(url, itertools.cycle(requests), load, seconds=seconds, kept=kept))
    return load


async def _drive(url: str, requests: Iterator[bytes], load: Load, *, seconds: float, kept: int) -> None:
    parts = urlsplit(url)
    begun = time.perf_counter()
    ends = begun + seconds

    async def client() -> None:
        line: _Line | None = None
        while time.perf_counter() < ends:
            request, sent = next(requests), time.perf_counter()
            line = line or await _Line.open(str(parts.hostname), int(parts.port or 80))
            answer = await line.ask(request)
            if answer.status == 200:
                load.seconds.append(time.perf_counter() - sent)
                load.bodies.append(answer.body)
                del load.bodies[:-kept]
            else:
                load.failed += 1
            if answer.closes:
                line.close()
                line = None
        if line:
            line.close()

    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(load.clients))), seconds + TIMEOUT_S)
    load.wall_s = time.perf_counter() - begun


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    closes: bool


class _Line(asyncio.Protocol):
    """One client's connection, for one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._seen = bytearray()
        self._answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, host: str, port: int) -> "_Line":
        """A new connection."""
        _, line = await asyncio.get_running_loop().create_connection(cls, host, port)
        return line

    async def ask(self, request: bytes) -> _Answer:
        """Send a whole request and wait for its answer. Raises ConnectionError where the server goes away."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head_ends = self._seen.find(b"\r\n\r\n")
        if head_ends < 0:
            return
        head = bytes(self._seen[:head_ends]).lower()
        length = _LENGTH.search(head)
        if length is None:
            self._answer.set_exception(ConnectionError(f"an answer without a length: {head!r}"))
            return
        ends = head_ends + 4 + int(length[1])
        if len(self._seen) >= ends:
            closes = b"connection: close" in head or head.startswith(b"http/1.0")
            status, body = int(head.split(b" ", 2)[1]), bytes(self._seen[head_ends + 4 : ends])
            del self._seen[:ends]
            self._answer.set_result(_Answer(status, body, closes))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server hung up"))
