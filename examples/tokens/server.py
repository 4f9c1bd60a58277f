import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator

import sockrpc

LOG = logging.getLogger("tokens")

app = sockrpc.App()


async def model(prompt: str) -> AsyncGenerator[str, None]:
    """Stands for a model: each token takes its time, and somebody pays for it."""
    for token in ["Once", "upon", "a", "time", "there", "was", *["again"] * 1000, prompt]:
        await asyncio.sleep(0.1)
        yield f"{token} "


@app.method("generate")
async def generate(call: sockrpc.Call) -> AsyncIterator[str]:
    paid = 0
    try:
        # Without `aclosing` Python closes the inner generator only some time later.
        async with contextlib.aclosing(model(call.text)) as tokens:
            async for token in tokens:
                yield token
                paid += 1
                if paid == 3:
                    LOG.info("call %d talks", call.id)
    finally:
        LOG.info("call %d ends after %d tokens", call.id, paid)
