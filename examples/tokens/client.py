import asyncio
import signal

import sockrpc
from sockrpc import Code, RPCError


async def main() -> None:
    async with (
        sockrpc.connect("ws://127.0.0.1:3000/socket") as client,
        client.stream("generate", "the end") as tokens,
    ):
        stop_button = tokens.cancel  # sends the reset at once, wherever it is called in this event loop
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop_button)
        try:
            async for token in tokens:
                print(token.decode(), end="", flush=True)
        except RPCError as error:
            if error.code is not Code.CANCELLED:
                raise
            outcome = await tokens.cancel()  # sends nothing any more, and waits for the handler's end
            print(f"[stopped: {outcome.name}]")


asyncio.run(main())
