"""Send a call again, but never one that may have begun."""

import asyncio

import sockrpc
from sockrpc import Code, ConnectionLost, Outcome, RPCError

# Others that have not started, such as an unknown method, will not start the next time either.
WORTH_ANOTHER_TRY = {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}


async def pay(uri: str, order: str) -> bytes:
    async with sockrpc.timeout(30):  # for all tries together; what is left of it travels with each call
        async for client in sockrpc.connect(uri):  # connects again when the body has ended
            while not client.closing:  # a server that is about to stop takes no more calls
                try:
                    return await client.call("pay", order)
                except RPCError as error:
                    if error.outcome is not Outcome.NOT_STARTED or error.code not in WORTH_ANOTHER_TRY:
                        raise
                    await asyncio.sleep(error.retry_after or 0.2)
                except ConnectionLost as error:
                    if error.outcome is not Outcome.NOT_STARTED:
                        raise  # the payment may have been made, or not
                    break
    raise AssertionError("connecting ends only by an error")
