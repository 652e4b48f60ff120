"""Real servers for tests of the client: one with scripted responses, and both services on a free port."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import uvicorn
from redis import Redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dermnote_contracts.notes import ModelInfo, Note, NoteRequest, Provenance, Verification
from dermnote_contracts.problems import PROBLEM_JSON, DermnoteError, Problem
from dermnote_notegen.api import app as notegen_app
from dermnote_notegen.queue.records import MODEL, NOTE, NoteStore
from dermnote_notegen.queue.rq_queue import QUEUE_NAME
from dermnote_notegen.settings import Settings as NotegenSettings
from dermnote_retrieval import app as retrieval_app
from dermnote_retrieval.encoder.base import ModelSource
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings as RetrievalSettings
from tests.notegen.processes import Valkey, wait_until
from tests.ports import free_port

SCRIPTED = ModelInfo(name="scripted", sha256="0" * 64, context_tokens=2048, engine="scripted")


@dataclass(frozen=True)
class Answer:
    """A scripted response. `missing`: bytes of the body that are never sent; `silent`: no response at all."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    silent: bool = False


DROPPED = Answer(status=0)
SILENCE = Answer(silent=True)


def problem(error: DermnoteError, **headers: str) -> Answer:
    """The services' response for an error."""
    body = error.problem().model_dump_json().encode()
    return Answer(error.status, body, {"Content-Type": PROBLEM_JSON} | headers)


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the server received."""

    call: str
    headers: Mapping[str, str]
    body: bytes


class ScriptedServer(ThreadingHTTPServer):
    """Sends its answers in order, and repeats the last one. `received`: the requests."""

    daemon_threads = False

    def __init__(self, *answers: Answer, port: int = 0) -> None:
        self.answers = list(answers)
        self.received: list[ReceivedRequest] = []
        self.stopped = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def next_answer(self) -> Answer:
        """The next scripted answer."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.server.received.append(ReceivedRequest(f"{self.command} {self.path}", dict(self.headers), body))
        answer = self.server.next_answer()
        if answer.silent:
            self.server.stopped.wait(60)
        elif answer.status:
            self._send(answer)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (the names that http.server looks for)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) + answer.missing))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def scripted_server(*answers: Answer, port: int = 0) -> Iterator[ScriptedServer]:
    """A server with scripted answers."""
    with ScriptedServer(*answers, port=port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Serve an app with uvicorn on a free port; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), timeout_s=60, what="the app is served")
            assert thread.is_alive(), "the app did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class InterceptedApp:
    """An app that records its calls and answers some of them with overrides."""

    app: ASGIApp
    calls: list[str] = field(default_factory=list)
    overrides: dict[str, Answer] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = f"{scope['method']} {scope['path']}"
        self.calls.append(call)
        if call in self.overrides:
            answer = self.overrides[call]
            await Response(answer.body, answer.status, dict(answer.headers))(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class ManualNoteService:
    """The real note service over a real Valkey, without a worker: the test itself decides when notes are written.

    `failing`: ages whose notes fail; `requests`: the requests that were processed.
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.settings = NotegenSettings(note_ttl_s=3600)
        self.app = InterceptedApp(notegen_app.create_app(self.settings, redis=redis))
        self.failing: set[int | float | None] = set()
        self.requests: list[NoteRequest] = []
        self.url = ""
        self._store = NoteStore(redis, note_ttl_s=3600)
        self.load(SCRIPTED)

    def load(self, model: ModelInfo) -> None:
        """Register a model as the worker would."""
        self.model = model
        self.redis.set(MODEL, model.model_dump_json())
        worker = SimpleWorker([QUEUE_NAME], connection=self.redis, serializer=JSONSerializer)
        worker.register_birth()
        self.redis.hset(worker.key, "last_heartbeat", utcformat(now() + timedelta(days=1)))
        self.redis.persist(worker.key)

    def work(self, limit: int = 100_000) -> None:
        """Write queued notes, oldest first."""
        for _ in range(limit):
            queued = self.redis.lpop(f"rq:queue:{QUEUE_NAME}")
            if queued is None:
                return
            self._write(queued.decode())

    def _write(self, note_id: str) -> None:
        started = self._store.start(note_id)
        assert started is not None
        request = started.request
        self.requests.append(request)
        if request.metadata.age in self.failing:
            reason = Problem(title="No note", status=500, code="no-note", detail="the ink is dry")
            self._store.fail(note_id, reason)
        else:
            self._store.finish(note_id, [self._note(request)])

    def _note(self, request: NoteRequest) -> Note:
        template = request.strategy == "M"
        return Note(
            text=f"{request.metadata.age} years, {request.metadata.diagnosis}",
            strategy=request.strategy,
            facts=[],
            verification=Verification(faithful=True, coverage=1),
            provenance=Provenance(
                model=None if template else self.model.name,
                model_sha256=None if template else self.model.sha256,
                prompt_version="by hand",
                seed=request.options.seed or 0,
                attempts=0 if template else 1,
                source="template" if template else "llm",
            ),
        )

    def note_ids(self) -> list[str]:
        """The ids of all requested notes."""
        prefix = NOTE.format("")
        return [key.decode().removeprefix(prefix) for key in self.redis.scan_iter(f"{prefix}*")]

    @contextmanager
    def working(self) -> Iterator[None]:
        """Write notes in a background thread as they are requested."""
        stopped = threading.Event()

        def work() -> None:
            while not stopped.is_set():
                self.work()
                stopped.wait(0.02)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """A private Valkey server; yields its URL."""
    port = free_port()
    server = Valkey(folder, port=port)
    server.start()
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.stop()


@contextmanager
def manual_note_service(valkey_url: str) -> Iterator[ManualNoteService]:
    """A served note service over an empty Valkey."""
    with Redis.from_url(valkey_url) as redis:
        redis.flushdb()
        service = ManualNoteService(redis)
        with served(service.app) as service.url:
            yield service


@contextmanager
def retrieval_service(folder: Path, *, source: ModelSource | None = None, **settings: Any) -> Iterator[str]:
    """The served retrieval service with its dummy encoder over `folder`; yields its URL."""
    chosen = RetrievalSettings(**({"data_dir": folder, "encoder": "dummy"} | settings))
    app = retrieval_app.create_app(chosen, service=open_service(chosen, source=source))
    with served(app) as url:
        yield url
