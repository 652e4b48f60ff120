"""Told to stop: readiness says so at once, what runs ends well, what comes is refused, and nothing answered is lost."""

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

from dermnote_retrieval.operations.maintenance import Maintenance
from dermnote_retrieval.service import open_service
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
    raise AssertionError(f"{path.name} never came")


def tell_to_stop(server: Server) -> None:
    """And wait until it knows."""
    server.process.send_signal(signal.SIGTERM)
    while httpx.get(f"{server.url}/health/ready").status_code != 503:
        pass


def ended(server: Server) -> tuple[int, bool]:
    """(exit code, whether an error was logged)."""
    _, log = server.process.communicate(timeout=60)
    return server.process.returncode, "Traceback" in log or "ERROR" in log


def asked(server: Server, pool: ThreadPoolExecutor) -> "Future[httpx.Response]":
    return pool.submit(httpx.post, f"{server.url}/search", json={"text": "red"}, timeout=60)


def test_searches_that_run_are_answered_and_new_ones_refused(start: Start, gate: Path) -> None:
    server = start(command=GATED, **{GATE: str(gate)})
    with ThreadPoolExecutor(4) as pool:
        running = [asked(server, pool) for _ in range(4)]
        wait_for(gate / "arrived")
        tell_to_stop(server)

        assert httpx.get(f"{server.url}/health/ready").json()["checks"] == {"serving": "stopping"}
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        refused = httpx.post(f"{server.url}/search", json={"text": "blue"})
        assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
        assert int(refused.headers["Retry-After"]) > 0
        (gate / "open").touch()
        # The ones that had not reached the service yet are refused like any other.
        codes = [one.result().status_code for one in running]
    assert 200 in codes
    assert set(codes) <= {200, 503}
    assert ended(server) == (0, False)


def test_a_slow_load_ends_after_what_it_has_and_says_where(start: Start) -> None:
    server = start()
    told = threading.Event()

    def lines() -> Iterator[bytes]:
        for number in range(130):
            yield json.dumps({"id": f"i{number}", "note": f"note {number}"}).encode() + b"\n"
        told.wait(60)
        yield b'{"id": "later", "note": "not taken any more"}\n'

    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url, timeout=60) as client:
        load = pool.submit(httpx.post, f"{server.url}/items/bulk", content=lines(), headers=NDJSON, timeout=60)
        while client.get("/index").json()["items"] < 128:
            pass
        tell_to_stop(server)
        told.set()
        outcomes = [json.loads(line) for line in load.result().text.splitlines()]

    *stored, last = outcomes
    assert [(one["id"], one["status"]) for one in stored] == [(f"i{number}", "created") for number in range(130)]
    assert (last["status"], last["error"]["code"], last["error"]["status"]) == ("failed", "stopping", 503)
    assert ended(server) == (0, False)
    with httpx.Client(base_url=start().url) as client:
        assert client.get("/index").json()["items"] == 130
        assert client.get("/items/i129").json()["note"] == "note 129"
        assert client.get("/items/later").status_code == 404


def test_what_does_not_end_in_time_is_left(start: Start, gate: Path) -> None:
    """An encoder that never answers: the store is closed as kill -9 would leave it."""
    server = start(command=GATED, RETRIEVAL_DRAIN_S="0", **{GATE: str(gate)})
    assert httpx.put(f"{server.url}/items/a", data={"metadata": '{"age": 40}'}).status_code == 201
    with ThreadPoolExecutor(1) as pool:
        running = asked(server, pool)
        wait_for(gate / "arrived")
        server.process.send_signal(signal.SIGTERM)
        assert ended(server) == (1, True)
        cut_off = running.result()
        assert (cut_off.status_code, cut_off.json()["code"]) == (503, "stopping")
    with httpx.Client(base_url=start().url) as client:
        assert client.get("/items/a").json()["metadata"] == {"age": 40}


@pytest.mark.parametrize("wanted", [signal.SIGTERM, signal.SIGINT])
def test_with_nothing_to_do_it_ends_at_once(start: Start, wanted: signal.Signals) -> None:
    server = start(RETRIEVAL_DRAIN_S="3600")
    server.process.send_signal(wanted)

    assert ended(server) == (0, False)


class SlowIndex:
    """An index that has outgrown exact search, and whose build lasts until it is let go."""

    outgrown = True

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def shrink(self) -> bool:
        return False

    def build(self, *, stop: threading.Event) -> bool:
        self.begun.set()
        self.let_go.wait(60)
        return not stop.is_set()


def test_a_build_does_not_hold_up_the_end_and_touches_nothing_after_it(tmp_path: Path) -> None:
    service, index = open_service(Settings(data_dir=tmp_path, encoder="dummy")), SlowIndex()
    writer = SimpleNamespace(serving=SimpleNamespace(indexes={"notes": index}))
    upkeep = Maintenance(writer, service.checkpoint, look_every_s=0.01)  # type: ignore[arg-type]
    upkeep.start()
    assert index.begun.wait(60)

    upkeep.close(patience_s=0)

    assert upkeep.busy
    service.close()
    index.let_go.set()
    upkeep.close(patience_s=60)
    assert not upkeep.busy
