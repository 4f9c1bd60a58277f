import asyncio
from collections.abc import Callable
from typing import Any, Literal

from sockrpc._settings import Settings
from sockrpc.websocket.connection import Connection
from sockrpc.websocket.loop import LoopContext

class MessageConnection(Connection):
    """A WebSocket connection without RPC: text is `str`, binary is `bytes`.

    Nothing more is parsed while output is above the high-water mark. Exceptions of `receiver` go to the
    loop's exception handler; the connection stays open.
    """

    def __init__(
        self,
        role: Literal["server", "client"],
        settings: Settings,
        context: LoopContext,
        receiver: Callable[[Any, str | bytes], object],
        handshake: Any = None,
    ) -> None: ...
    def send_whole(self, message: str | bytes) -> None:
        """Send one message; it is dropped before `open` and after the end."""

class MessageProtocol(MessageConnection, asyncio.BufferedProtocol):
    """Either end of a connection without RPC, as asyncio recognises it."""
