"""The engine's HTTP surface on its Unix socket (OpenAI's completions), and its process."""

import asyncio
import logging
import os
import sys
import threading
import time
from asyncio import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest, start_http_server

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.problems import DermnoteError, EngineUnavailable, InvalidRequest, Unavailable
from dermnote_http.errors import install_problem_handlers
from dermnote_notegen.engine.model import (
    Engine,
    EngineBusy,
    EngineFailed,
    GrammarRefused,
    ModelNotFound,
    PromptEmpty,
    PromptTooLong,
)
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.settings import Settings

POLL_S = 0.1
# How long requests in hand may still take when the process ends.
GRACE_S = 5
RETRY_AFTER_S = 2


class EngineOverloaded(Unavailable):
    """As many requests as may wait do wait."""

    code, title = "engine-overloaded", "The engine has too many requests waiting"


class DeadlineExceeded(DermnoteError):
    """The request's own deadline passed before it was done."""

    code, status, title = "deadline-exceeded", 504, "The deadline passed"


class ClientGone(DermnoteError):
    """The client hung up; nobody reads this."""

    code, status, title = "client-gone", 499, "The client hung up"


class Turn:
    """One request's place: whether to give up, because its deadline passed or its client left."""

    def __init__(self, deadline_s: float) -> None:
        self._ends = time.monotonic() + deadline_s
        self.gone = False

    def over(self) -> bool:
        """True once the deadline has passed."""
        return time.monotonic() > self._ends

    def stop(self) -> bool:
        """True when nobody waits for the answer any more."""
        return self.gone or self.over()


def create_engine(engine: Engine) -> FastAPI:
    """The app around a loaded model."""
    app = FastAPI(title="Dermnote engine")
    install_problem_handlers(app)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": engine.origin.name, "object": "model", **engine.info()}]}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(engine.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> CompletionResponse:
        turn = Turn(body.deadline_s)
        watcher = asyncio.create_task(_watch(request, turn))
        try:
            # Compiling a grammar takes milliseconds: not in the loop that answers everybody.
            answer = await run_in_threadpool(engine.submit, body, stop=turn.stop)
            return await asyncio.wrap_future(answer)
        except (PromptEmpty, PromptTooLong, GrammarRefused) as refused:
            raise InvalidRequest(str(refused)) from refused
        except EngineBusy as busy:
            raise EngineOverloaded(str(busy), retry_after_s=RETRY_AFTER_S) from busy
        except EngineFailed as failed:
            raise EngineUnavailable(str(failed)) from failed
        except CancelledError as stopped:
            if turn.over():
                raise DeadlineExceeded("before the text was done") from stopped
            if turn.gone:
                raise ClientGone from stopped
            raise
        finally:
            turn.gone = True
            watcher.cancel()

    return app


async def _watch(request: Request, turn: Turn) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(POLL_S)
    turn.gone = True


def load_engine(settings: Settings) -> Engine:
    """The engine around the model that the settings name; raises ModelNotFound."""
    if settings.model == "scripted":
        return ScriptedModel(token_s=0.01, slots=settings.engine_slots)
    # OpenMP's threads wait for each other many times a token. Endless spinning was 4 to 20 times slower on cores shared
    # with training, never spinning 2 times slower on idle ones; a short spin costs nothing there and little elsewhere.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    from dermnote_notegen.engine.build import load  # noqa: PLC0415  only the engine process loads llama.cpp

    return load(settings)


def main() -> None:
    """Load the model, then serve it on the socket; a stale socket file of a killed engine is replaced."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = Settings()
    try:
        engine = load_engine(settings)
    except ModelNotFound as error:
        sys.exit(f"dermnote-notegen-engine: {error}")
    socket = Path(settings.engine_socket)
    socket.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        socket.unlink()
    if settings.engine_metrics_port:
        start_http_server(settings.engine_metrics_port, addr=settings.host, registry=engine.registry)
    serve(engine, socket)
    if not engine.alive:
        sys.exit("dermnote-notegen-engine: the engine's thread has ended; see above")


def serve(engine: Engine, socket: Path) -> None:
    """Listen on the socket until told to stop, or until the engine ends."""
    config = uvicorn.Config(create_engine(engine), uds=str(socket), access_log=False, timeout_graceful_shutdown=GRACE_S)
    server = uvicorn.Server(config)
    threading.Thread(target=_end_with, args=(engine, server), daemon=True).start()
    server.run()


def _end_with(engine: Engine, server: uvicorn.Server) -> None:
    """An engine whose thread died must not go on listening: who started it starts it again."""
    while engine.alive:
        time.sleep(POLL_S)
    server.should_exit = True
