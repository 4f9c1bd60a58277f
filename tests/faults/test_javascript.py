"""The JavaScript client in Node behind a faulty line."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import How, Proxy
from tests.kit.command import Served
from tests.kit.support import PATIENCE
from tests.test_javascript import CLIENT, node

pytestmark = pytest.mark.node

# Imported for its name: pytest finds fixtures so.
__all__ = ["node"]

# Calls, is cut, says so; then opens anew and calls again.
CUT = """
const call = client.call("long_running_task", []).catch((error) => error.name);
await client.call("uppercase", "x");
console.log("calling");
console.log(await call, client.status().pending.length);
await client.connect();
console.log(text(await client.call("uppercase", "again")));
"""

# Calls of all sizes, an abort among them.
SPLIT = """
const controller = new AbortController();
const { signal } = controller;
const aborted = client.call("long_running_task", [], { signal }).catch((error) => error.reason);
const words = Array.from({ length: 100 }, (_, at) => "word ".repeat(at) + at);
words.push("x".repeat(2 ** 17));
const answers = await Promise.all(words.map((word) => client.call("uppercase", word)));
controller.abort("enough");
console.log(await aborted, answers.filter((answer, at) => text(answer) === words[at].toUpperCase()).length);
console.log(text(await client.call("uppercase", "usable")), client.status().pending.length);
"""

FRAME = """
import {{ SocketIo }} from "{url}";
const text = (bytes) => new TextDecoder().decode(bytes);
const client = new SocketIo(process.env.SOCKRPC_TEST_URL);
await client.connect();
{body}
client.close();
"""


@contextlib.asynccontextmanager
async def client_in_node(node: str, proxy: Proxy, body: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A script in Node with a client that is connected through the proxy."""
    script = FRAME.format(url=(CLIENT / "sockrpc.js").as_uri(), body=body)
    process = await asyncio.create_subprocess_exec(
        *(node, "--input-type=module", "--eval", script),
        env={"SOCKRPC_TEST_URL": proxy.uri},
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def lines_until_the_end(process: asyncio.subprocess.Process) -> list[str]:
    """What it still prints; it must end well."""
    assert process.stdout is not None
    printed = await process.stdout.read()
    assert await process.wait() == 0
    return printed.decode().splitlines()


def test_the_client_over_a_line_that_splits_and_delays(node: str) -> None:
    chance = random.Random(1)

    async def through(port: int) -> list[str]:
        async with Proxy(port) as proxy, asyncio.timeout(PATIENCE):
            for way in (proxy.up, proxy.down):
                way.piece = lambda: chance.choice((1, 2, 7, 100, 5000))
                way.delay = lambda: chance.random() * 0.003
            async with client_in_node(node, proxy, SPLIT) as process:
                return await lines_until_the_end(process)

    with Served("demo") as demo:
        assert asyncio.run(through(demo.port)) == ["enough 101", "USABLE 0"]
        demo.wait_log("the task is aborted")
        assert len(demo.logged("the task is aborted")) == len(demo.logged("begins")) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_line_that_is_cut_rejects_what_is_in_flight_at_once(node: str, how: How) -> None:
    async def through(port: int) -> list[str]:
        async with (
            asyncio.timeout(PATIENCE),
            Proxy(port) as proxy,
            client_in_node(node, proxy, CUT) as process,
        ):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"calling\n"
            proxy.cut(how)
            return await lines_until_the_end(process)

    with Served("demo") as demo:
        assert asyncio.run(through(demo.port)) == ["ConnectionLostError 0", "AGAIN"]
        # One task was begun for the call, and was aborted with its connection.
        demo.wait_log("the task is aborted")
        assert len(demo.logged("begins")) == 1
