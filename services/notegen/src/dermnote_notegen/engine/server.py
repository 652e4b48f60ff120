"""The engine's HTTP API (OpenAI completions on a Unix socket) and its process."""

import asyncio
import errno
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from asyncio import CancelledError
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest, start_http_server

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.problems import (
    ClientGone,
    DeadlineExceeded,
    EngineOverloaded,
    EngineUnavailable,
    InvalidRequest,
    StartRefused,
)
from dermnote_http.app import start_errors
from dermnote_http.errors import install_problem_handlers
from dermnote_http.logging import configure_logging, request_id_middleware
from dermnote_http.settings import read_settings
from dermnote_notegen.engine.model import (
    Engine,
    EngineBusy,
    EngineFailed,
    GrammarError,
    PromptEmpty,
    PromptTooLong,
)
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.settings import Settings

log = logging.getLogger(__name__)
POLL_S = 0.1
SUPERVISOR_POLL_S = 1.0
# How long running requests may take when the process shuts down.
SHUTDOWN_GRACE_S = 5
# How long a new engine waits for one on the same socket to end.
LOCK_WAIT_S = SHUTDOWN_GRACE_S + 2
RETRY_AFTER_S = 2
# How many times OpenMP threads spin at a barrier before they sleep. On cores shared with other processes, more spins
# made two threads up to 10 times slower (docs/decisions/0008).
OPENMP_SPINS = "1000"


class Cancellation:
    """Whether one request should be dropped, because its deadline passed or its client disconnected."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline = time.monotonic() + deadline_s
        self.disconnected = False

    def expired(self) -> bool:
        """True once the deadline has passed."""
        return time.monotonic() > self._deadline

    def cancelled(self) -> bool:
        """True once the client has disconnected or the deadline has passed."""
        return self.disconnected or self.expired()

    async def watch(self, request: Request) -> None:
        """Return once the client has disconnected."""
        while not await request.is_disconnected():
            await asyncio.sleep(POLL_S)
        self.disconnected = True


def create_engine(engine: Engine) -> FastAPI:
    """The app around a loaded model."""
    app = FastAPI(title="Dermnote engine", middleware=[request_id_middleware()])
    install_problem_handlers(app)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": engine.model_info.name, "object": "model", **engine.info()}]}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(engine.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> CompletionResponse:
        cancellation = Cancellation(body.deadline_s)
        watcher = asyncio.create_task(cancellation.watch(request))
        try:
            # Compiling a grammar takes milliseconds, so it must not block the event loop.
            future = await run_in_threadpool(engine.submit, body, cancelled=cancellation.cancelled)
            return _logged(await asyncio.wrap_future(future))
        except (PromptEmpty, PromptTooLong, GrammarError) as error:
            raise InvalidRequest(str(error)) from error
        except EngineBusy as error:
            raise EngineOverloaded(str(error), retry_after_s=RETRY_AFTER_S) from error
        except EngineFailed as error:
            raise EngineUnavailable(str(error)) from error
        except CancelledError as error:
            if cancellation.expired():
                raise DeadlineExceeded("before the completion was finished") from error
            if cancellation.disconnected:
                raise ClientGone from error
            raise
        finally:
            cancellation.disconnected = True
            watcher.cancel()

    return app


def _logged(response: CompletionResponse) -> CompletionResponse:
    usage, choice = response.usage, response.choices[0]
    log.info("completion: %d + %d tokens, %s", usage.prompt_tokens, usage.completion_tokens, choice.finish_reason)
    return response


def load_engine(settings: Settings) -> Engine:
    """The engine around the model that the settings name; raises StartRefused."""
    if settings.model == "scripted":
        return ScriptedModel(token_s=0.01, slots=settings.engine_slots)
    from dermnote_notegen.engine.build import load  # noqa: PLC0415  only the engine process loads llama.cpp

    return load(settings)


def reserve_socket(path: Path) -> None:
    """Reserve a path for the socket of this process, until it ends. A socket file on which nobody listens is deleted.

    Waits for an engine that is ending. Raises StartRefused if another process listens there or is about to, and if no
    socket can be made there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _lock(path.with_name(f"{path.name}.lock"))
        if path.is_socket():
            _check_unused(path)
            path.unlink()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
        path.unlink()
    except BlockingIOError as error:
        raise StartRefused(f"NOTEGEN_ENGINE_SOCKET={path}: another process listens there; stop it first") from error
    except OSError as error:
        reason = error.strerror or error
        raise StartRefused(f"NOTEGEN_ENGINE_SOCKET={path}: no socket can be made there: {reason}") from error


def _lock(path: Path) -> None:
    """Hold a lock until the process ends, however it ends: the file stays open. Raises BlockingIOError."""
    file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
        else:
            return


def _check_unused(path: Path) -> None:
    """Raise BlockingIOError if a process listens on the socket, even one that is too busy to accept."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        code = caller.connect_ex(str(path))
    if code in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise BlockingIOError
    if code != errno.ECONNREFUSED:
        raise OSError(code, os.strerror(code))


def _serve_metrics(engine: Engine, settings: Settings) -> None:
    """Serve the metrics on NOTEGEN_ENGINE_METRICS_PORT if it is set. Raises StartRefused."""
    host, port = settings.host, settings.engine_metrics_port
    if port is not None:
        try:
            start_http_server(port, addr=host, registry=engine.registry)
        except OSError as error:
            raise StartRefused(f"NOTEGEN_ENGINE_METRICS_PORT: {host}:{port}: {error.strerror}") from error


def main(supervisor: int | None = None) -> None:
    """Load the model and serve it on the socket. `supervisor`: pid of the parent; the engine ends with it."""
    if supervisor is not None:
        threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)  # read when llama.cpp is loaded
    with start_errors("dermnote-notegen-engine"):
        settings = read_settings(Settings)
        configure_logging(settings.log_format)
        reserve_socket(settings.engine_socket)
        engine = load_engine(settings)
        _serve_metrics(engine, settings)
    serve(engine, settings.engine_socket)
    if not engine.alive:
        sys.exit("dermnote-notegen-engine: the engine's thread ended; see the log above")


def _end_with(supervisor: int) -> None:
    """Kill this process when its supervisor has ended. On Linux the kernel does that sooner."""
    while os.getppid() == supervisor:
        time.sleep(SUPERVISOR_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def serve(engine: Engine, path: Path) -> None:
    """Listen on a Unix socket until a signal arrives or the engine ends."""
    config = uvicorn.Config(
        create_engine(engine),
        uds=str(path),
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_exit_with, args=(engine, server), daemon=True).start()
    server.run()


def _exit_with(engine: Engine, server: uvicorn.Server) -> None:
    """Shut the server down once the engine's thread has ended, so that the supervisor restarts the process."""
    while engine.alive:
        time.sleep(POLL_S)
    server.should_exit = True
