"""The client of our own engine: an engine that is unavailable, fails, or rejects a request."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from dermnote_contracts.completions import CompletionRequest
from dermnote_contracts.problems import EngineCrashed, EngineRefused, EngineUnavailable, InternalError, InvalidRequest
from dermnote_notegen.engine.model import GrammarError
from dermnote_notegen.worker import engine_client
from dermnote_notegen.worker.engine_client import EngineClient, EngineLock

REQUEST = CompletionRequest(prompt="A 61-year-old woman:")
DROPPED = 0
ANSWER = {"id": "cmpl-1", "created": 1, "model": "some", "choices": [{"text": " red"}]}


@dataclass
class FakeEngine:
    """An engine on a Unix socket that answers with problems in turn, then with a text. `DROPPED`: hangs up instead.

    `alone`: for each request, whether it held the engine exclusively.
    """

    socket: Path
    problems: list[Any] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)

    def take(self) -> Any:
        self.alone.append(not self._is_shared())
        return self.problems.pop(0) if self.problems else None

    def _is_shared(self) -> bool:
        acquired = threading.Event()

        def acquire() -> None:
            with EngineLock(self.socket).shared():
                acquired.set()

        threading.Thread(target=acquire, daemon=True).start()
        return acquired.wait(0.3)


@contextmanager
def served(engine: FakeEngine) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            problem = engine.take()
            if problem == DROPPED:
                self.close_connection = True
                return
            body = json.dumps(ANSWER if problem is None else problem.problem().model_dump()).encode()
            self.send_response(200 if problem is None else problem.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    engine.socket.unlink(missing_ok=True)
    with ThreadingUnixStreamServer(str(engine.socket), Handler) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture
def engine(short_folder: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(short_folder / "fake.sock")
    with served(fake):
        yield fake


@pytest.fixture
def client(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineClient]:
    monkeypatch.setattr(engine_client, "RESTART_PAUSE_S", 0.0)
    client = EngineClient(socket=short_folder / "fake.sock", wait_s=20)
    yield client
    client.close()


@pytest.mark.parametrize("problem", [DROPPED, EngineUnavailable(), InternalError()], ids=["dropped", "503", "500"])
def test_a_request_on_which_the_engine_failed_twice_holds_it_exclusively(
    engine: FakeEngine, client: EngineClient, problem: Any
) -> None:
    engine.problems = [problem] * 3

    assert client.complete(REQUEST).choices[0].text == " red"

    assert engine.alone == [False, False, True, True]


@pytest.mark.parametrize("problem", [DROPPED, EngineUnavailable(), InternalError()], ids=["dropped", "503", "500"])
def test_a_request_on_which_the_engine_fails_exclusively_is_given_up(
    engine: FakeEngine, client: EngineClient, problem: Any
) -> None:
    engine.problems = [problem] * 4

    with pytest.raises(EngineCrashed):
        client.complete(REQUEST)

    assert len(engine.alone) == 4
    assert client.complete(REQUEST).choices[0].text == " red"
    assert not engine.alone[-1]


def test_an_overloaded_engine_has_not_failed(engine: FakeEngine, client: EngineClient) -> None:
    class Overloaded(EngineUnavailable):
        code = "engine-overloaded"

    engine.problems = [Overloaded() for _ in range(6)]

    assert client.complete(REQUEST).choices[0].text == " red"
    assert not any(engine.alone)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # httpcore's socket that could not connect
def test_an_unavailable_engine_is_awaited_and_has_not_failed(short_folder: Path, client: EngineClient) -> None:
    engine = FakeEngine(short_folder / "fake.sock")
    engine.socket.unlink(missing_ok=True)
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(client.complete(REQUEST).choices[0].text))
    asking.start()
    asking.join(5 * engine_client.RETRY_PAUSE_S)
    assert not answers

    with served(engine):
        asking.join(20)

    assert answers == [" red"]
    assert engine.alone == [False]


def test_a_rejection_has_a_reason_without_the_prompt(engine: FakeEngine, client: EngineClient) -> None:
    engine.problems = [InvalidRequest(str(GrammarError(REQUEST.prompt)))]

    with pytest.raises(EngineRefused) as refused:
        client.complete(REQUEST)

    assert "422" in refused.value.detail
    assert "context" in refused.value.detail
    assert "61" not in refused.value.detail
