"""The procedures and events of the published tutorial, under their published names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator

from sockrpc import App, Call, Notification, Room, Socket

__all__ = ["LONG_TASK_SECONDS", "make_app"]

LOG = logging.getLogger("sockrpc.demo")

LONG_TASK_SECONDS = 3.0

# Seconds over which changes are gathered before the pages hear of them.
GATHERING_SECONDS = 0.05
# For longer lists the pages get only the length.
LISTED_CALLS = 20


class Watch:
    """Sends the list of running long calls to every page, by the event "calls" (JSON)."""

    def __init__(self, pages: Room) -> None:
        self._pages = pages
        self._running: dict[Call, None] = {}
        self._done = 0
        self._aborted = 0
        self._scheduled = False

    @contextlib.contextmanager
    def watching(self, call: Call) -> Iterator[None]:
        """Count a call as running while the block runs."""
        self._running[call] = None
        self._changed()
        try:
            yield
        except asyncio.CancelledError:
            self._aborted += 1
            raise
        else:
            self._done += 1
        finally:
            del self._running[call]
            self._changed()

    def state(self) -> str:
        """Return the payload of the event."""
        listed = list(self._running)[:LISTED_CALLS]
        return json.dumps(
            {
                "count": len(self._running),
                "done": self._done,
                "aborted": self._aborted,
                "running": [
                    {"id": call.id, "method": call.method, "client": address(call.socket)} for call in listed
                ],
            }
        )

    def _changed(self) -> None:
        if not self._scheduled and len(self._pages):
            self._scheduled = True
            asyncio.get_running_loop().call_later(GATHERING_SECONDS, self._tell)

    def _tell(self) -> None:
        self._scheduled = False
        self._pages.broadcast("calls", self.state())


def make_app() -> App:
    """Make an app with myip, uppercase, long_runing_task, ping -> pong and broadcast -> message."""
    app = App()
    everybody = Room()
    watch = Watch(everybody)

    @app.on_connect
    def connected(socket: Socket) -> None:
        everybody.join(socket)
        socket.notify_nowait("calls", watch.state())

    @app.method
    def myip(call: Call) -> str:
        return address(call.socket)

    @app.method
    def uppercase(call: Call) -> str:
        return call.text.upper()

    # This misspelling of the published tutorial stays, because deployed pages call it so.
    @app.method("long_runing_task")
    @app.method("long_running_task")
    async def long_running_task(call: Call) -> str:
        LOG.info("call %d: the %g s task of %s begins", call.id, LONG_TASK_SECONDS, address(call.socket))
        with watch.watching(call):
            try:
                await asyncio.sleep(LONG_TASK_SECONDS)
            except asyncio.CancelledError:
                LOG.info("call %d: the task is aborted (%s)", call.id, call.abort_reason)
                raise
        LOG.info("call %d: the task is done", call.id)
        return "done!"

    @app.on
    async def ping(notification: Notification) -> None:
        await notification.socket.notify("pong", notification.payload)

    @app.on
    def broadcast(notification: Notification) -> None:
        everybody.broadcast("message", notification.payload)

    return app


def address(socket: Socket) -> str:
    """Return the peer's address in the usual notation."""
    where = socket.remote_address
    if not isinstance(where, tuple):
        return "unix socket"
    host, port = where[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
