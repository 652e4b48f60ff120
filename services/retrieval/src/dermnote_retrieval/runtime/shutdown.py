"""Stopping without breaking what runs: readiness says so, new requests are refused, running ones finish, all in a
bounded time. What is sent after that is answered by nobody.
"""

import asyncio
import logging
import os
import threading
import time
from types import FrameType

import uvicorn
from anyio import move_on_after
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermnote_contracts.problems import Stopping
from dermnote_http.errors import problem_response

log = logging.getLogger(__name__)
RETRY_AFTER_S = 5
# How often a request that waits for its body looks whether it should end.
LOOK_EVERY_S = 0.2
# For what is left once the drain is over: an encoder call that cannot be ended, the index's checkpoint.
CLOSING_S = 20.0
OPEN_MEANWHILE = ("/health/", "/metrics")


class Draining:
    """Whether the process is to stop, and since when. Set by a signal, looked at from everywhere."""

    def __init__(self) -> None:
        self._begun: float | None = None

    @property
    def on(self) -> bool:
        return self._begun is not None

    def begin(self) -> None:
        """From now on nothing new is taken."""
        self._begun = time.monotonic()

    def lasts_s(self) -> float:
        """How long it has gone on."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    async def receive(self, receive: Receive) -> Message:
        """The client's next message; raises Stopping as soon as it begins, however long the client takes."""
        while not self.on:
            with move_on_after(LOOK_EVERY_S):
                return await receive()
        raise Stopping(retry_after_s=RETRY_AFTER_S)


class RefuseWhileDraining:
    """Answers 503 to what comes in while the process stops, health and metrics apart, and to what is cut off then."""

    def __init__(self, app: ASGIApp, *, draining: Draining) -> None:
        self.app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._draining.on and not scope["path"].startswith(OPEN_MEANWHILE):
            await self._refuse(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            if begun or not self._draining.on or scope["type"] != "http":
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await problem_response(Stopping(retry_after_s=RETRY_AFTER_S))(scope, receive, send)


class DrainingServer(uvicorn.Server):
    """uvicorn's server, whose first signal begins the drain: it stops when nothing runs, at the latest in `drain_s`.

    A second signal ends the drain at once. What is not closed `closing_s` after the drain is left as it is.
    """

    def __init__(self, config: uvicorn.Config, *, draining: Draining, drain_s: float, closing_s: float) -> None:
        super().__init__(config)
        self._draining = draining
        self._drain_s = drain_s
        self._closing_s = closing_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as uvicorn calls it
        """Begin, or, told again, stop."""
        if self._draining.on:
            self.should_exit = True
            return
        self._draining.begin()
        end = threading.Timer(self._drain_s + self._closing_s, _give_up)
        end.daemon = True
        end.start()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop serving now; called ten times a second."""
        return await super().on_tick(counter) or self._drained()

    def _drained(self) -> bool:
        return self._draining.on and (not self.server_state.tasks or self._draining.lasts_s() >= self._drain_s)


def end_at_once(code: int) -> None:
    """End the process without waiting for any thread. The store takes that as it takes kill -9."""
    logging.shutdown()
    os._exit(code)


def _give_up() -> None:
    log.error("what runs did not end in time; the process ends without it")
    end_at_once(1)
