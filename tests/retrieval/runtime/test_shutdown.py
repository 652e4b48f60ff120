"""Graceful shutdown: readiness reports it at once, running requests finish, new ones are rejected, nothing is lost."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dermnote_retrieval.service import Maintenance, open_service
from dermnote_retrieval.settings import Settings
from tests.retrieval import gated
from tests.retrieval.gated import GATE
from tests.retrieval.runtime.test_process import Server

GATED = (sys.executable, str(Path(gated.__file__)))
NDJSON = {"Content-Type": "application/x-ndjson"}
Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def started(**options: Any) -> Server:
        servers.append(Server(tmp_path / "data", **options))
        return servers[-1]

    yield started
    for server in servers:
        server.kill()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    folder = tmp_path / "gate"
    folder.mkdir()
    return folder


def wait_for(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{path.name} did not appear")


def begin_shutdown(server: Server) -> None:
    """Send SIGTERM and wait until readiness reports it."""
    server.process.send_signal(signal.SIGTERM)
    while httpx.get(f"{server.url}/health/ready").status_code != 503:
        pass


def wait_for_exit(server: Server) -> tuple[int, bool]:
    """(exit code, whether an error was logged)."""
    _, log = server.process.communicate(timeout=60)
    return server.process.returncode, "Traceback" in log or "ERROR" in log


def start_search(server: Server, pool: ThreadPoolExecutor) -> "Future[httpx.Response]":
    return pool.submit(httpx.post, f"{server.url}/search", json={"text": "red"}, timeout=60)


def test_running_searches_are_answered_and_new_ones_rejected(start: Start, gate: Path) -> None:
    server = start(command=GATED, **{GATE: str(gate)})
    with ThreadPoolExecutor(4) as pool:
        running = [start_search(server, pool) for _ in range(4)]
        wait_for(gate / "arrived")
        begin_shutdown(server)

        assert httpx.get(f"{server.url}/health/ready").json()["checks"] == {"serving": "stopping"}
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        refused = httpx.post(f"{server.url}/search", json={"text": "blue"})
        assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
        assert int(refused.headers["Retry-After"]) > 0
        (gate / "open").touch()
        # Searches that had not reached the service yet are rejected like any other.
        codes = [one.result().status_code for one in running]
    assert 200 in codes
    assert set(codes) <= {200, 503}
    assert wait_for_exit(server) == (0, False)


def test_a_slow_load_stores_what_it_received_and_reports_where_it_ended(start: Start) -> None:
    server = start()
    stopped = threading.Event()

    def lines() -> Iterator[bytes]:
        for number in range(130):
            yield json.dumps({"id": f"i{number}", "note": f"note {number}"}).encode() + b"\n"
        stopped.wait(60)
        yield b'{"id": "later", "note": "no longer stored"}\n'

    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url, timeout=60) as client:
        load = pool.submit(httpx.post, f"{server.url}/items/bulk", content=lines(), headers=NDJSON, timeout=60)
        while client.get("/index").json()["items"] < 128:
            pass
        begin_shutdown(server)
        stopped.set()
        outcomes = [json.loads(line) for line in load.result().text.splitlines()]

    *stored, last = outcomes
    assert [(one["id"], one["status"]) for one in stored] == [(f"i{number}", "created") for number in range(130)]
    assert (last["status"], last["error"]["code"], last["error"]["status"]) == ("failed", "stopping", 503)
    assert wait_for_exit(server) == (0, False)
    with httpx.Client(base_url=start().url) as client:
        assert client.get("/index").json()["items"] == 130
        assert client.get("/items/i129").json()["note"] == "note 129"
        assert client.get("/items/later").status_code == 404


def test_work_that_does_not_end_in_time_is_abandoned(start: Start, gate: Path) -> None:
    """With an encoder that never answers, the process ends like kill -9."""
    server = start(command=GATED, RETRIEVAL_DRAIN_S="0", **{GATE: str(gate)})
    assert httpx.put(f"{server.url}/items/a", data={"metadata": '{"age": 40}'}).status_code == 201
    with ThreadPoolExecutor(1) as pool:
        running = start_search(server, pool)
        wait_for(gate / "arrived")
        server.process.send_signal(signal.SIGTERM)
        assert wait_for_exit(server) == (1, True)
        cut_off = running.result()
        assert (cut_off.status_code, cut_off.json()["code"]) == (503, "stopping")
    with httpx.Client(base_url=start().url) as client:
        assert client.get("/items/a").json()["metadata"] == {"age": 40}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once(start: Start, number: signal.Signals) -> None:
    server = start(RETRIEVAL_DRAIN_S="3600")
    server.process.send_signal(number)

    assert wait_for_exit(server) == (0, False)


class SlowIndex:
    """An outgrown index whose build blocks until it is released."""

    outgrown = True

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()

    def shrink(self) -> bool:
        return False

    def build(self, *, stop: threading.Event) -> bool:
        self.begun.set()
        self.release.wait(60)
        return not stop.is_set()


def test_a_build_neither_delays_the_shutdown_nor_changes_anything_after_it(tmp_path: Path) -> None:
    service, index = open_service(Settings(data_dir=tmp_path, encoder="dummy")), SlowIndex()
    writer = SimpleNamespace(served=SimpleNamespace(indexes={"notes": index}))
    maintenance = Maintenance(writer, interval_s=0.01)  # type: ignore[arg-type]
    maintenance.start()
    assert index.begun.wait(60)

    maintenance.close(timeout_s=0)

    assert maintenance.busy
    service.close()
    index.release.set()
    maintenance.close(timeout_s=60)
    assert not maintenance.busy
