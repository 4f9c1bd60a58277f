"""A WebSocket echo on sockrpc's WebSocket level: `python echo_server.py PORT`; port 0 is any free one.

Prints where it listens as its first line, and echoes until it is terminated.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from sockrpc.process.event_loop import loop_factory
from tests.conformance.peers import echo, serve


async def main(port: int) -> None:
    async with serve(echo, port) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        runner.run(main(int(sys.argv[1])))
