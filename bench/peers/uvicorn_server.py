"""An ASGI app on uvicorn: uvloop, httptools, compression and access log off."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn

from bench.peers.common import BACKLOG, arguments, listening_socket, run


def serve(app: Any) -> None:
    """Serve the app until SIGTERM."""
    arguments()

    async def begin(end: asyncio.Future[None]) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            # The newer implementation; the older one uses a deprecated part of websockets.
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            access_log=False,
            log_level="critical",
            backlog=BACKLOG,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listening_socket()]))
        # uvicorn handles the signal itself, and then its server ends.
        await asyncio.wait([serving, end], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving

    run(begin)
