"""The real server process: answered writes survive kill -9, and a failed start prints one line."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

Start = Callable[[], "Server"]
COMMAND = (sys.executable, "-m", "dermnote_retrieval")


class Server:
    """dermnote-retrieval in its own process on a free port."""

    def __init__(self, data_dir: Path, *, command: Sequence[str] = COMMAND, **variables: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        given = {"RETRIEVAL_DATA_DIR": str(data_dir), "RETRIEVAL_ENCODER": "dummy", "RETRIEVAL_PORT": str(port)}
        self.process = launch(command, **given | variables)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        transport = httpx.HTTPTransport(retries=0)
        with httpx.Client(transport=transport) as client:
            for _ in range(600):
                assert self.process.poll() is None, self.process.communicate()
                try:
                    client.get(f"{self.url}/health/ready").raise_for_status()
                except httpx.TransportError:
                    threading.Event().wait(0.1)
                else:
                    return
        raise AssertionError("the server did not become ready")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def launch(command: Sequence[str] = COMMAND, **variables: str) -> "subprocess.Popen[str]":
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RETRIEVAL_") and k != "ALLOW_UNAUTHENTICATED"}
    return subprocess.Popen(
        command,
        env=clean | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def started() -> Server:
        servers.append(Server(tmp_path / "data"))
        return servers[-1]

    yield started
    for server in servers:
        server.kill()


def test_answered_writes_survive_kill_9(start: Start, paint: Any) -> None:
    server = start()
    answered: list[str] = []

    def write() -> None:
        with httpx.Client(base_url=server.url) as client:
            for number in range(10_000):
                try:
                    answer = client.put(f"/items/i{number}", data={"note": f"note {number}"}, files={"image": paint()})
                except httpx.TransportError:
                    return
                assert answer.status_code == 201
                answered.append(f"i{number}")
                if number == 20:
                    enough.set()

    enough = threading.Event()
    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(60)
    server.kill()
    writer.join()

    again = start()
    with httpx.Client(base_url=again.url) as client:
        for item_id in answered:
            assert client.get(f"/items/{item_id}").json()["note"] == f"note {item_id[1:]}"
        info = client.get("/index").json()
        assert info["items"] == info["routes"]["notes"]["vectors"] == info["routes"]["images"]["vectors"]
        assert len(answered) <= info["items"] <= len(answered) + 1
        hits = client.post("/search", json={"text": "note", "k": 1000}).json()["hits"]
        assert set(answered) <= {hit["id"] for hit in hits}


def test_a_stopped_server_releases_its_store(start: Start) -> None:
    server = start()
    server.process.terminate()
    _, log = server.process.communicate(timeout=60)

    assert "Traceback" not in log
    start()


def test_a_client_with_a_too_large_body_gets_the_answer(start: Start) -> None:
    server = start()

    answer = httpx.put(f"{server.url}/items/a", files={"image": b"x" * 25_000_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    answer = httpx.put(f"{server.url}/items/a", files={"image": b"x" * 20_500_000})
    assert (answer.status_code, "the image has" in answer.json()["detail"]) == (413, True)
    endless = (b"x" * 65536 for _ in range(400))
    answer = httpx.post(f"{server.url}/search", content=endless, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_a_client_that_disconnects_does_no_harm(start: Start) -> None:
    server = start()
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    for path, kind in (("PUT /items/a", "multipart/form-data; boundary=x"), ("POST /items/bulk", "application/x-tar")):
        with socket.create_connection(address) as connection:
            head = f"{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 99999\r\n\r\n--x\r\n"
            connection.sendall(head.encode())

    assert httpx.get(f"{server.url}/health/ready").status_code == 200
    server.process.terminate()
    _, log = server.process.communicate(timeout=60)
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RETRIEVAL_HOST": "0.0.0.0"}, "ALLOW_UNAUTHENTICATED=1"),  # noqa: S104 - must be rejected
        ({"RETRIEVAL_PORT": "many"}, "RETRIEVAL_PORT: "),
        ({"RETRIEVAL_MODEL": "a/b"}, "RETRIEVAL_MODEL: "),
        ({"RETRIEVAL_MODEL": "missing"}, "no model missing"),
        (
            {"RETRIEVAL_ENCODER": "openclip", "RETRIEVAL_MODELS_DIR": "/nowhere"},
            "dermnote export lite --models-dir /nowhere",
        ),
        ({"RETRIEVAL_DATA_DIR": "/proc/nowhere"}, "the data folder /proc/nowhere cannot be used"),
    ],
)
def test_a_failed_start_prints_one_line(tmp_path: Path, variables: dict[str, str], expected: str) -> None:
    process = launch(**({"RETRIEVAL_DATA_DIR": str(tmp_path), "RETRIEVAL_ENCODER": "dummy"} | variables))
    out, err = process.communicate(timeout=60)

    assert process.returncode == 2
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("dermnote-retrieval: ")
    assert expected in err
