"""The server at the far end of a line: a process of its own, watched through a unix socket.

Arguments: the path of that socket, and the options of the server as JSON. Prints its port when it listens.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
from typing import Any

import uvloop

import sockrpc
from tests.kit.inside import attached, working

app = sockrpc.App()
errors: list[str] = []
# What `cancelling()` of each work said when it was cancelled, and why it was.
cancels: list[int] = []
reasons: list[str | None] = []


class Recorder(logging.Handler):
    """Keeps what is logged as an error: nothing should be."""

    def emit(self, record: logging.LogRecord) -> None:
        errors.append(self.format(record))


@app.method("echo")
def echo(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("later")
async def later(call: sockrpc.Call) -> bytes:
    """Answers with its payload after as many seconds as it begins with."""
    try:
        await asyncio.sleep(float(call.payload.partition(b" ")[0]))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        cancels.append(task.cancelling())
        reasons.append(call.abort_reason)
        raise
    return call.payload


@app.method("large")
def large(call: sockrpc.Call) -> bytes:
    """Answers with so many bytes."""
    return bytes(int(call.payload))


@app.on("ping")
async def ping(notification: sockrpc.Notification) -> None:
    await notification.socket.notify("pong", notification.payload)


def report(server: sockrpc.Server) -> str:
    connections = [each for each in working(server) if each.transport is not None]
    return json.dumps(
        {
            **dataclasses.asdict(server.statistics()),
            "attached": attached(server),
            "unsent": sum(each.transport.get_write_buffer_size() for each in connections),
            "ends": [each.close_reason for each in working(server) if each.has_ended],
            "errors": errors[:5],
            "cancels": cancels,
            "reasons": reasons,
        }
    )


async def main() -> None:
    watched, options = sys.argv[1], json.loads(sys.argv[2])
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(str(context)))
    logging.getLogger("sockrpc").addHandler(Recorder(logging.ERROR))
    server = await sockrpc.serve(app, "0.0.0.0", 0, **options)
    watch = sockrpc.App()
    watch.method("report")(lambda _: report(server))
    await sockrpc.serve(watch, uds=watched)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


if __name__ == "__main__":
    kept: Any = uvloop.new_event_loop()
    kept.run_until_complete(main())
