import asyncio
import logging
from collections.abc import AsyncIterator

import sockrpc

LOG = logging.getLogger("tutorial")

app = sockrpc.App()


@app.method("generate")
async def generate(call: sockrpc.Call) -> AsyncIterator[str]:
    """A stream towards the caller."""
    try:
        for word in call.text.split():
            yield word  # waits for credit; a reset is raised here, or at the `await`
            await asyncio.sleep(0.2)
    finally:
        LOG.info("call %d is closed: %s", call.id, call.abort_reason or "to the end")


@app.method("sum")
async def total(call: sockrpc.Call) -> str:
    """A stream from the caller."""
    return str(sum([int(item) async for item in call.items()]))


@app.method("shout")
async def shout(call: sockrpc.Call) -> str:
    """A stream in both directions."""
    async for item in call.items():
        await call.send(item.upper())
    return "that was loud"
