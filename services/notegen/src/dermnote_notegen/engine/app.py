"""The engine's HTTP surface on its Unix socket, and its process.

Requests queue here and the model takes one after the other; a request stands alone, so batching them later changes
nothing for callers.
"""

import asyncio
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from dermnote_contracts.asgi import install_problem_handlers
from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.problems import DermnoteError, InvalidRequest
from dermnote_notegen.engine.model import GrammarRefused, Model, ModelNotFound, PromptTooLong, find_weights
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.settings import Settings

POLL_S = 0.1


class DeadlineExceeded(DermnoteError):
    """The request's own deadline passed before it was done."""

    code, status, title = "deadline-exceeded", 504, "The deadline passed"


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


def create_engine(model: Model) -> FastAPI:
    """The app around a loaded model."""
    app = FastAPI(title="Dermnote engine")
    install_problem_handlers(app)
    one_at_a_time = asyncio.Lock()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {
            "id": model.name,
            "object": "model",
            "sha256": model.sha256,
            "context_tokens": model.context_tokens,
            "engine": model.engine,
        }
        return {"object": "list", "data": [entry]}

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> CompletionResponse:
        turn = Turn(body.deadline_s)
        watcher = asyncio.create_task(_watch(request, turn))
        try:
            async with one_at_a_time:
                if turn.stop():
                    raise DeadlineExceeded("while waiting for its turn")
                answer = await run_in_threadpool(model.complete, body, stop=turn.stop)
        except (PromptTooLong, GrammarRefused) as refused:
            raise InvalidRequest(str(refused)) from refused
        finally:
            watcher.cancel()
        if turn.over():
            raise DeadlineExceeded("while generating")
        return answer

    return app


async def _watch(request: Request, turn: Turn) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(POLL_S)
    turn.gone = True


def load_model(settings: Settings) -> Model:
    """The model that the settings name; raises ModelNotFound."""
    if settings.model == "scripted":
        return ScriptedModel(token_s=0.01)
    name, path, sha256 = find_weights(settings.model)
    # OpenMP's threads wait for each other many times a token. Endless spinning was 4 to 20 times slower on cores shared
    # with training, never spinning 2 times slower on idle ones; a short spin costs nothing there and little elsewhere.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    from dermnote_notegen.engine.llama import LlamaModel  # noqa: PLC0415  only the engine process loads llama.cpp

    return LlamaModel(path, name=name, sha256=sha256, context_tokens=settings.context_tokens, threads=settings.threads)


def main() -> None:
    """Load the model, then serve it on the socket; a stale socket file of a killed engine is replaced."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = Settings()
    try:
        model = load_model(settings)
    except ModelNotFound as error:
        sys.exit(f"dermnote-notegen-engine: {error}")
    socket = Path(settings.engine_socket)
    socket.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        socket.unlink()
    uvicorn.run(create_engine(model), uds=str(socket), access_log=False)
