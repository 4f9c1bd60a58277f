"""The keywords of `serve`, for code that passes them on."""

from __future__ import annotations

import socket as socket_module
import ssl as ssl_module
from collections.abc import Callable, Sequence

from sockrpc.limits import ServerLimits
from sockrpc.listen.admission import ProcessRequest
from sockrpc.websocket.deflate import CompressionName
from sockrpc.websocket.origins import Origins

__all__ = ["ServeOptions"]


class ServeOptions(ServerLimits, total=False):
    """The keywords that `serve` takes besides app, host and port."""

    path: str | None
    uds: str | None
    sock: socket_module.socket | Sequence[socket_module.socket] | None
    ssl: ssl_module.SSLContext | Callable[[], ssl_module.SSLContext] | None
    origins: Origins
    process_request: ProcessRequest | None
    compression: CompressionName | None
    backlog: int
    reuse_port: bool | None
    inspect_path: str | None
