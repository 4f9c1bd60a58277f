"""RPC over WebSocket whose calls can really be cancelled.

A client that is no longer interested sends a reset frame, and the server's task is aborted at its
next ``await``; losing the connection aborts every call on it.
"""

from sockrpc._calls import Call
from sockrpc._frames import SUBPROTOCOL
from sockrpc._notifications import Notification
from sockrpc._statistics import Histogram, MethodStatistics
from sockrpc.app import App
from sockrpc.client import Client, Status
from sockrpc.connecting import connect
from sockrpc.counting import Statistics
from sockrpc.errors import (
    ConnectionClosed,
    ConnectionLost,
    HandshakeError,
    ListenerOverflow,
    ProtocolError,
    RemoteError,
    SockRPCError,
    UsageError,
)
from sockrpc.freezing import hook_dirs as _hook_dirs  # noqa: F401
from sockrpc.handover import systemd_sockets
from sockrpc.listener import Listener
from sockrpc.rooms import Room
from sockrpc.runner import run
from sockrpc.server import Server, serve
from sockrpc.sockets import Socket
from sockrpc.version import __version__

__all__ = [
    "SUBPROTOCOL",
    "App",
    "Call",
    "Client",
    "ConnectionClosed",
    "ConnectionLost",
    "HandshakeError",
    "Histogram",
    "Listener",
    "ListenerOverflow",
    "MethodStatistics",
    "Notification",
    "ProtocolError",
    "RemoteError",
    "Room",
    "Server",
    "SockRPCError",
    "Socket",
    "Statistics",
    "Status",
    "UsageError",
    "__version__",
    "connect",
    "run",
    "serve",
    "systemd_sockets",
]
