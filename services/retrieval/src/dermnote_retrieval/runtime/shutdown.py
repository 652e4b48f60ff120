"""Graceful shutdown: the service reports that it is stopping, rejects new requests, and finishes running ones.

uvicorn alone would close its sockets at once, and health checks and new requests would get no response.
"""

import asyncio
import logging
import os
import threading
from types import FrameType

import uvicorn
from anyio import move_on_after
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermnote_contracts.problems import Stopping
from dermnote_http.errors import problem_response

log = logging.getLogger(__name__)
RETRY_AFTER_S = 5
# How often a request that waits for its body checks for a shutdown.
POLL_S = 0.2
# Time to close after the drain, for work that cannot be interrupted, such as an encoder call.
CLOSING_S = 20.0
ALWAYS_OPEN = ("/health/", "/metrics")


class Shutdown:
    """Whether the process is shutting down. Set by a signal, read from all threads."""

    def __init__(self) -> None:
        self.begun = False

    async def receive(self, receive: Receive) -> Message:
        """The client's next message; raises Stopping as soon as the shutdown begins, however slow the client is."""
        while not self.begun:
            with move_on_after(POLL_S):
                return await receive()
        raise Stopping(retry_after_s=RETRY_AFTER_S)


class RejectDuringShutdown:
    """During a shutdown, answers 503 to new requests (except health and metrics) and to cancelled ones."""

    def __init__(self, app: ASGIApp, *, shutdown: Shutdown) -> None:
        self.app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._shutdown.begun and not scope["path"].startswith(ALWAYS_OPEN):
            await _reject(scope, receive, send)
            return
        answering = False

        async def track(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self.app(scope, receive, track)
        except asyncio.CancelledError:
            if answering or not self._shutdown.begun:
                raise
            await _reject(scope, receive, send)


async def _reject(scope: Scope, receive: Receive, send: Send) -> None:
    await problem_response(Stopping(retry_after_s=RETRY_AFTER_S))(scope, receive, send)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that keeps serving after the first signal until no request runs, at most for `drain_s`.

    A second signal ends the drain. A process that does not close within `closing_s` after the drain is ended by force.
    """

    def __init__(self, config: uvicorn.Config, *, shutdown: Shutdown, drain_s: float, closing_s: float) -> None:
        super().__init__(config)
        self._shutdown = shutdown
        self._drain_s = drain_s
        self._closing_s = closing_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begin the shutdown, or end the drain at the second signal."""
        if self._shutdown.begun:
            self.should_exit = True
            return
        self._shutdown.begun = True
        for delay_s, action in ((self._drain_s, self._end_drain), (self._drain_s + self._closing_s, _give_up)):
            timer = threading.Timer(delay_s, action)
            timer.daemon = True
            timer.start()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop serving now; called ten times per second."""
        return await super().on_tick(counter) or (self._shutdown.begun and not self.server_state.tasks)

    def _end_drain(self) -> None:
        self.should_exit = True


def end_at_once(code: int) -> None:
    """End the process without waiting for threads. For the store, this is the same as kill -9."""
    logging.shutdown()
    os._exit(code)


def _give_up() -> None:
    log.error("running work did not end in time; ending the process without waiting for it")
    end_at_once(1)
