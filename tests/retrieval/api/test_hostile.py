"""Hostile uploads to the real process: each is rejected with a reason, none crashes it, and memory stays bounded."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.retrieval.hostile import COUNT, hostile
from tests.retrieval.runtime.test_process import Server

# Two images decoded at a time take some 3 bytes a pixel of 40 million; a bomb would take gigabytes.
MOST_GROWTH_MIB = 400


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path / "data")
    yield started
    started.kill()


def peak_mib(server: Server) -> float:
    (line,) = (line for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


def test_hostile_uploads_are_rejected_and_memory_stays_bounded(server: Server) -> None:
    uploads = list(hostile())
    assert len({content for _, content in uploads}) == len(uploads) == COUNT
    before = peak_mib(server)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for name, content in uploads:
            answers = [
                client.post("/search", files={"image": (name, content)}),
                client.put("/items/x", files={"image": (name, content)}),
            ]
            for answer in answers:
                assert (name, answer.status_code, answer.json()["code"]) == (name, 422, "image-refused")
                assert answer.json()["detail"]
        assert client.get("/items").json()["items"] == []
        assert client.post("/search", json={"text": "still here"}).status_code == 200
    assert peak_mib(server) - before < MOST_GROWTH_MIB
