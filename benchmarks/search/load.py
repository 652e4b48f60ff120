"""Many clients that ask one server over keep-alive HTTP, each for its next request as soon as it has its answer.

Written down to the bytes: on two cores a comfortable client would take more time than the server.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

TIMEOUT_S = 120.0


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
    asyncio.run(_drive(url, itertools.cycle(requests), load, seconds=seconds, kept=kept))
    return load


async def _drive(url: str, requests: Iterator[bytes], load: Load, *, seconds: float, kept: int) -> None:
    parts = urlsplit(url)
    begun = time.perf_counter()
    ends = begun + seconds

    async def client() -> None:
        line = _Line(str(parts.hostname), int(parts.port or 80))
        while time.perf_counter() < ends:
            request, sent = next(requests), time.perf_counter()
            status, body = await asyncio.wait_for(line.ask(request), TIMEOUT_S)
            if status == 200:
                load.seconds.append(time.perf_counter() - sent)
                load.bodies.append(body)
                del load.bodies[:-kept]
            else:
                load.failed += 1
        line.close()

    await asyncio.gather(*(client() for _ in range(load.clients)))
    load.wall_s = time.perf_counter() - begun


class _Line:
    """One client's connection; a server that closes after an answer gets a new one."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().splitlines()
        headers = dict(name.split(": ", 1) for name in fields if ": " in name)
        body = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close" or status.startswith("http/1.0"):
            self.close()
        return int(status.split()[1]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
