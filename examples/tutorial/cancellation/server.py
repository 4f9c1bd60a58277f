import asyncio
import logging

import sockrpc

LOG = logging.getLogger("tutorial")

app = sockrpc.App()


@app.method("long_running_task")
async def long_running_task(call: sockrpc.Call) -> str:
    LOG.info("call %d begins", call.id)
    try:
        await asyncio.sleep(3)  # aborted here
    except asyncio.CancelledError:
        LOG.info("call %d is aborted: %s", call.id, call.abort_reason)
        raise
    LOG.info("call %d is done", call.id)
    return "done!"
