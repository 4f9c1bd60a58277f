"""The service behind: python stock.py"""

import asyncio
import logging

import sockrpc

LOG = logging.getLogger("stock")

app = sockrpc.App()


@app.method("reserve")
async def reserve(call: sockrpc.Call) -> str:
    left = call.remaining  # None if the caller has no deadline
    LOG.info("reserve: %s", "no deadline" if left is None else f"{left:.1f} s are left")
    try:
        await asyncio.sleep(float(call.text))  # stands for work
    except asyncio.CancelledError:
        LOG.info("reserve is aborted")
        raise
    return "reserved"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sockrpc.run(app, "127.0.0.1", 3001)
