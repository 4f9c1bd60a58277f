"""The compiled connections as asyncio recognises them.

asyncio asks `isinstance(protocol, BufferedProtocol)`, which a compiled class can not inherit from;
empty classes join the two.
"""

from __future__ import annotations

import asyncio

from sockrpc.peer.client_connection import ClientConnection
from sockrpc.peer.server_connection import ServerConnection
from sockrpc.websocket.messages import MessageConnection

__all__ = ["ClientProtocol", "MessageProtocol", "ServerProtocol"]


class ServerProtocol(ServerConnection, asyncio.BufferedProtocol):
    """The server's end of a connection."""

    __slots__ = ()


class ClientProtocol(ClientConnection, asyncio.BufferedProtocol):
    """The client's end of a connection."""

    __slots__ = ()


class MessageProtocol(MessageConnection, asyncio.BufferedProtocol):
    """Either end of a connection without RPC."""

    __slots__ = ()
