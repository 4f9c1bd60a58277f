"""RPC over WebSocket whose calls can really be cancelled.

A client that is no longer interested sends a reset frame, and the server's task is aborted at its
next ``await``; losing the connection aborts every call on it.
"""

from sockrpc._frames import SUBPROTOCOL
from sockrpc.app import App
from sockrpc.client import Client, Status
from sockrpc.codes import Code, Outcome
from sockrpc.connect import connect
from sockrpc.dial.resuming import ResumingStream
from sockrpc.errors import (
    ConnectionClosed,
    ConnectionLost,
    DeadlineExceeded,
    HandshakeError,
    ListenerOverflow,
    ProtocolError,
    RPCError,
    SockRPCError,
    UsageError,
)
from sockrpc.freezing import hook_dirs as _hook_dirs  # noqa: F401
from sockrpc.handle import Handle
from sockrpc.listen.systemd import systemd_sockets
from sockrpc.listener import Listener
from sockrpc.observe.statistics import Statistics
from sockrpc.peer.call import Call
from sockrpc.peer.deadline import deadline, timeout
from sockrpc.peer.notification import Notification
from sockrpc.peer.tally import Histogram, MethodStatistics
from sockrpc.peer.tracked import Tracked
from sockrpc.remote import Remote
from sockrpc.rooms import Room
from sockrpc.run import run
from sockrpc.server import Server, serve
from sockrpc.sockets import Socket
from sockrpc.stream import Stream
from sockrpc.version import __version__

__all__ = [
    "SUBPROTOCOL",
    "App",
    "Call",
    "Client",
    "Code",
    "ConnectionClosed",
    "ConnectionLost",
    "DeadlineExceeded",
    "Handle",
    "HandshakeError",
    "Histogram",
    "Listener",
    "ListenerOverflow",
    "MethodStatistics",
    "Notification",
    "Outcome",
    "ProtocolError",
    "RPCError",
    "Remote",
    "ResumingStream",
    "Room",
    "Server",
    "SockRPCError",
    "Socket",
    "Statistics",
    "Status",
    "Stream",
    "Tracked",
    "UsageError",
    "__version__",
    "connect",
    "deadline",
    "run",
    "serve",
    "systemd_sockets",
    "timeout",
]
