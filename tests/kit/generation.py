"""One generation of a server that is restarted under load: serves, and at its end says what it has done.

Run as a program with one argument, a JSON object: `fd` or `port` (then with SO_REUSEPORT), `loop`, and
`filter`: false leaves out what keeps new connections off a listener that is about to close; and limits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import sys
from typing import Any

import sockrpc
import sockrpc.listen.server_sockets

app = sockrpc.App()
app.method("echo")(lambda call: call.payload)


@app.method
async def work(call: sockrpc.Call) -> bytes:
    """Takes as many milliseconds as the payload says."""
    await asyncio.sleep(int(call.text) / 1000)
    return call.payload


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(
    fd: int | None = None, port: int | None = None, loop: Any = "auto", filter: bool = True, **limits: Any
) -> None:
    if not filter:
        sockrpc.listen.server_sockets.drop_new_connections = lambda listening: False  # type: ignore[assignment]
    servers: list[sockrpc.Server] = []

    def started(server: sockrpc.Server) -> None:
        servers.append(server)
        tell("ready")

    options: Any = {"sock": socket.socket(fileno=fd)} if fd is not None else {"reuse_port": True}
    sockrpc.run(
        app, None if fd is not None else "127.0.0.1", port, loop=loop, on_started=started, **options, **limits
    )
    tell(json.dumps(dataclasses.asdict(servers[0].statistics())))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
